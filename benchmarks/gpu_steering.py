"""What steering costs on a GPU: a token of a language model, and a pass of SDXL's UNet.

Steered and unsteered passes take turns; the figure is the ratio of their median seconds. All norms
are steered, as by a map that nobody made sparse. Weights are random, in bfloat16.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import nn

import lineas_core as lc
from benchmarks.inputs import random_map, random_model
from benchmarks.machine import extent, report, seconds

TOKENS, REPEATS = 32, 5
# From the config.json of stabilityai/stable-diffusion-xl-base-1.0.
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TINY: dict[str, Any] = {
    **SDXL,
    "sample_size": 16,
    "block_out_channels": (32, 32, 64),
    "cross_attention_dim": 16,
    "attention_head_dim": (2, 2, 4),
    "transformer_layers_per_block": 1,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}


def measure_tokens(name: str, config: Any, device: torch.device) -> None:
    """Print the ratio for a token at batch sizes 1 and 32."""
    model = random_model(name, config, device, torch.bfloat16)
    smap = random_map(model, model.sites("layernorm"), "1 2 3")
    for batch in (1, 32):
        prompts = ["1 2 3 4 5 6 7 8"] * batch

        def generate(
            maps: list[tuple[lc.SteeringMap, float]], prompts: list[str] = prompts
        ) -> None:
            model.generate(prompts, maps, seed=0, max_new_tokens=TOKENS)

        _report(
            f"a steered token of {name} over an unsteered one, batch {batch}",
            lambda maps=[(smap, 1.0)], generate=generate: generate(maps),
            lambda generate=generate: generate([]),
            device,
        )


def measure_images(device: torch.device, *, tiny: bool) -> None:
    """Print the ratio for a pass of SDXL's UNet on 1 and 4 images of 1024 pixels."""
    from diffusers import UNet2DConditionModel

    shape = TINY if tiny else SDXL
    torch.manual_seed(0)
    with device:
        unet = UNet2DConditionModel(**shape).to(torch.bfloat16).requires_grad_(False).eval()
    unet.to(memory_format=torch.channels_last)
    modules = dict(unet.named_modules())
    sites = [n for n, m in modules.items() if isinstance(m, nn.GroupNorm | nn.LayerNorm)]
    generator = torch.Generator().manual_seed(0)
    smap = lc.SteeringMap(
        {
            site: lc.Affine(
                1 + 0.05 * torch.randn(_width(modules[site]), generator=generator),
                0.02 * torch.randn(_width(modules[site]), generator=generator),
            )
            for site in sites
        }
    )
    side, pooled = shape["sample_size"], shape["projection_class_embeddings_input_dim"]
    for count in (1, 4):
        made = {"device": device, "dtype": torch.bfloat16}
        latents = torch.randn(count, 4, side, side, **made)
        given = {
            "encoder_hidden_states": torch.randn(count, 77, shape["cross_attention_dim"], **made),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(
                    count, pooled - 6 * shape["addition_time_embed_dim"], **made
                ),
                "time_ids": torch.zeros(count, 6, **made),
            },
        }

        @torch.no_grad()
        def run(strength: float, latents: Any = latents, given: Any = given) -> None:
            with lc.steer(unet, [(smap, strength)]):
                unet(latents, 399, **given)

        _report(
            f"a steered pass of SDXL's UNet over an unsteered one, {count} images",
            lambda run=run: run(1.0),
            lambda run=run: run(0.0),
            device,
        )


def _width(norm: nn.Module) -> int:
    weight = norm.weight
    assert isinstance(weight, torch.Tensor)
    return len(weight)


def _report(figure: str, steered: Any, plain: Any, device: torch.device) -> None:
    times: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for taken, run in zip(times, (steered, plain), strict=True):
            taken += seconds(run, 1, device, warmups=1)
    medians = [statistics.median(taken) for taken in times]
    report(
        figure,
        medians[0] / medians[1],
        spread=extent([a / b for a, b in zip(*times, strict=True)]),
        seeds=[0],
        device=device,
        steered_seconds=extent(times[0]),
        unsteered_seconds=extent(times[1]),
    )
