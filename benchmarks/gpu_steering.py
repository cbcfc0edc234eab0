"""What steering costs on a GPU: a token of a language model, and a pass of SDXL's UNet.

Steered and unsteered passes take turns; the figure is the ratio of their median seconds. All norms
are steered, as by a map that nobody made sparse. Weights are random, in bfloat16.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

import lineas_core as lc
from benchmarks.gpu_images import make_unet, sdxl_inputs
from benchmarks.inputs import random_map, random_model
from benchmarks.machine import extent, report, seconds

TOKENS, REPEATS = 32, 5


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
    model = make_unet(device, tiny=tiny)
    smap = random_map(model, model.sites("norm"), "0")
    for count in (1, 4):
        inputs = sdxl_inputs(model.unet, count, device)

        @torch.no_grad()
        def run(strength: float, inputs: Any = inputs) -> None:
            with lc.steer(model, [(smap, strength)]):
                model.forward(inputs)

        _report(
            f"a steered pass of SDXL's UNet over an unsteered one, {count} images",
            lambda run=run: run(1.0),
            lambda run=run: run(0.0),
            device,
        )


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
