"""Sites of image transformers: norms of each head, and tokens of prompts that are padded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lineas_core as lc
from lineas_core.activations import pooled_forward
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.models.image.model import DiffusionModel
from tests.helpers.models import random_map

# diffusers' Euler schedulers convert tensors to arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PROMPTS = ["abc abc", "x", "a cab"]
WIDTH = 8


def outputs_of(model: DiffusionModel, site: str) -> list[Tensor]:
    """What a module puts out for each prompt alone."""
    found: list[Tensor] = []
    module: nn.Module = model.module.get_submodule(site)
    handle = module.register_forward_hook(lambda module, args, output: found.append(output))
    inputs = model.prepare(PROMPTS)
    for number in range(len(PROMPTS)):
        model.forward(inputs.rows([number]))
    handle.remove()
    return found


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("flux.1-schnell", "transformer.transformer_blocks.1.attn.norm_q"),
        ("flux.2-klein-4b", "transformer.transformer_blocks.1.attn.norm_added_k"),
        ("flux.2-klein-4b", "transformer.single_transformer_blocks.0.attn.norm_q"),
        ("flux.2-klein-4b", "text_encoder.model.layers.0.self_attn.k_norm"),
    ],
)
def test_a_site_among_heads_is_pooled_and_steered_on_the_coordinates_of_a_head(
    name: str, site: str, load: Any
) -> None:
    model = load(name)
    alone = outputs_of(model, site)
    assert {(z.ndim, z.shape[-1]) for z in alone} == {(4, WIDTH)}
    wanted = torch.cat([z.flatten(1, 2).mean(1) for z in alone])
    inputs = model.prepare(PROMPTS)
    torch.testing.assert_close(pooled_forward(model, inputs, [site])[site], wanted)
    smap = random_map({site: WIDTH}, 0)
    scale, shift = smap.sites[site].scale, smap.sites[site].shift
    affine = {site: BatchAffine(scale - 1, shift)}
    trained = pooled_forward(model, inputs, [site], maps=affine)[site]
    torch.testing.assert_close(trained, scale * wanted + shift)
    with lc.steer(model, [(smap, 1.0)]):
        steered = pooled_forward(model, inputs, [site])[site]
    torch.testing.assert_close(steered, trained)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("sana-sprint-0.6b", "transformer.caption_norm"),
        ("sana-sprint-0.6b", "transformer.transformer_blocks.0.attn2.norm_k"),
        ("sana-sprint-0.6b", "transformer.transformer_blocks.0.norm1"),
        ("qwen-image-lightning-4step", "transformer.txt_norm"),
        ("qwen-image-lightning-4step", "transformer.transformer_blocks.1.txt_norm2"),
        ("qwen-image-lightning-4step", "transformer.transformer_blocks.1.attn.norm_added_q"),
        ("qwen-image-lightning-4step", "transformer.transformer_blocks.1.attn.norm_k"),
    ],
)
def test_padding_of_prompts_is_not_pooled(name: str, site: str, load: Any) -> None:
    model = load(name)
    inputs = model.prepare(PROMPTS)
    mask = inputs.conditioning.mask.bool()
    assert len({int(row.sum()) for row in mask}) > 1
    wanted = torch.cat(
        [
            (z[:, row] if z.shape[1] == mask.shape[1] else z).flatten(1, -2).mean(dim=1)
            for z, row in zip(outputs_of(model, site), mask, strict=True)
        ]
    )
    torch.testing.assert_close(pooled_forward(model, inputs, [site])[site], wanted)


@pytest.mark.parametrize(
    "site",
    [
        "context_refiner.0.ffn_norm2",
        "context_refiner.0.attention.norm_k",
        "noise_refiner.0.attention_norm1",
        "layers.1.ffn_norm1",
        "layers.1.attention.norm_q",
    ],
)
def test_a_prompt_beside_a_longer_one_is_pooled_as_alone(site: str, load: Any) -> None:
    model, site = load("z-image-turbo"), f"transformer.{site}"
    inputs = model.prepare(["abc", "x" * 40, "a cab", "y" * 70])
    together = pooled_forward(model, inputs, [site])[site]
    alone = [pooled_forward(model, inputs.rows([i]), [site])[site] for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_site_whose_rows_are_not_prompts_is_refused(load: Any) -> None:
    model = load("z-image-turbo")
    site = "transformer.cap_embedder.0"
    with pytest.raises(lc.SiteError, match=rf"{site}' puts out \(96, 16\) for 3 prompts"):
        pooled_forward(model, model.prepare(PROMPTS), [site])


def test_a_prompt_as_long_as_the_image_is_refused_beside_a_shorter_one(load: Any) -> None:
    model = load("z-image-turbo")
    inputs = model.prepare(["a", "x" * 140])
    with pytest.raises(lc.SiteError, match="have 160 tokens each"):
        pooled_forward(model, inputs, ["transformer.layers.0.ffn_norm1"])


def test_a_prompt_as_long_as_the_image_is_padded_by_one_token(load: Any) -> None:
    model = load("qwen-image-lightning-4step")
    lengths = {n: model.prepare(["a" * n]).conditioning.mask for n in range(1, 20)}
    assert all(int(mask.sum()) == n - 1 + int(lengths[1].sum()) for n, mask in lengths.items())
    model._denoiser.size = 4 * 2 * 11
    for n in range(1, 20):
        mask = model.prepare(["a" * n]).conditioning.mask
        assert mask.shape[1] != 121
        assert int(mask.sum()) == int(lengths[n].sum())
    assert any(int(mask.sum()) == 121 for mask in lengths.values())


def test_one_step_is_refused_where_the_last_noise_level_is_given(load: Any) -> None:
    model = load("qwen-image-lightning-4step")
    model.pipeline.scheduler.register_to_config(shift_terminal=0.02)
    with pytest.raises(lc.ConfigError, match="steps is 1.* 0.02"):
        model.generate(["a"], steps=1)
    assert model.generate(["a"], steps=2)
