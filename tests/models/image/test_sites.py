from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from torch import nn

import lineas_core as lc
from lineas_core.models.shared.sites import match_sites, presets_of


def test_site_presets_find_every_norm_of_the_full_size_networks() -> None:
    with torch.device("meta"):
        xl = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        sd = UNet2DConditionModel(
            sample_size=64,
            attention_head_dim=(5, 10, 20, 20),
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        flux = FluxTransformer2DModel()

    def count(network: nn.Module, part: str, preset: str) -> Counter[str]:
        modules = {f"{part}.{name}": module for name, module in network.named_modules()}
        sites = match_sites(list(modules), preset, type(network).__name__)
        assert len(set(sites)) == len(sites)
        return Counter(type(modules[site]).__name__ for site in sites)

    # Two per residual block, one per transformer, three per transformer layer, one at the end.
    xl_blocks, xl_transformers, xl_layers = 6 + 2 + 9, 4 + 1 + 6, 2 * 12 + 10 + 3 * 12
    sd_blocks, sd_transformers = 8 + 2 + 12, 6 + 1 + 9
    assert sum(p.numel() for p in xl.parameters()) == 2_567_463_684
    assert count(xl, "unet", "norm") == {
        "GroupNorm": 2 * xl_blocks + xl_transformers + 1,
        "LayerNorm": 3 * xl_layers,
    }
    assert count(xl, "unet", r"unet.*norm.*") == count(xl, "unet", "norm")
    assert count(xl, "unet", "attention_norm") == {"LayerNorm": 3 * xl_layers}
    assert count(xl, "unet", "resnet_norm") == {"GroupNorm": 2 * xl_blocks}
    assert count(sd, "unet", "norm") == {
        "GroupNorm": 2 * sd_blocks + sd_transformers + 1,
        "LayerNorm": 3 * sd_transformers,
    }
    norms = (nn.GroupNorm, nn.LayerNorm)
    assert count(sd, "unet", "norm").total() == sum(isinstance(m, norms) for m in sd.modules())
    # 19 double-stream blocks with two norms per stream, 38 single-stream blocks, and the last norm.
    assert sum(p.numel() for p in flux.parameters()) == 11_891_178_560
    assert count(flux, "transformer", "norm") == {
        "AdaLayerNormZero": 2 * 19,
        "LayerNorm": 2 * 19,
        "AdaLayerNormZeroSingle": 38,
        "AdaLayerNormContinuous": 1,
    }
    assert count(flux, "transformer", "double_norm").total() == 76
    assert count(flux, "transformer", "single_norm").total() == 38
    with pytest.raises(lc.SiteError, match="Presets: norm, attention_norm, resnet_norm, text_norm"):
        count(sd, "unet", "post_layernorm")


@pytest.mark.parametrize(
    ("network", "without"),
    [
        (Flux2Transformer2DModel, {"norm_out.norm"}),
        (SanaTransformer2DModel, {"norm_out.norm"}),
        (QwenImageTransformer2DModel, {"norm_out.norm"}),
        # Its rows are the tokens of all prompts.
        (ZImageTransformer2DModel, {"cap_embedder.0"}),
    ],
)
def test_the_norm_preset_of_a_transformer_is_every_norm_that_is_not_in_another(
    network: Any, without: set[str]
) -> None:
    settings = {"qk_norm": "rms_norm_across_heads"} if network is SanaTransformer2DModel else {}
    with torch.device("meta"):
        modules = dict(network(**settings).named_modules())
    norms = {name for name, module in modules.items() if "Norm" in type(module).__name__}
    # SANA's embedding of the timestep is called a norm and is none.
    wanted = {f"transformer.{name}" for name in norms - without - {"time_embed"}}
    names = [f"transformer.{name}" for name in modules]
    assert set(match_sites(names, "norm", network.__name__)) == wanted
    for preset in presets_of(network.__name__):
        if preset != "text_norm":
            assert set(match_sites(names, preset, network.__name__)) <= wanted
