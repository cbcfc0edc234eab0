"""A grid of strengths in one call against one call per strength: `python -m benchmarks.sweeps`.

Texts: 8 prompts by 7 strengths of 48 tokens; images: 4 prompts by 7 strengths. The figure is the
time of seven calls of `generate` divided by that of one `sweep`, in alternating runs. It also
checks that both give the same result: texts token for token, images by the largest difference of
pixels, out of 255.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from PIL.Image import Image

import lineas_core as lc
from benchmarks.inputs import random_map
from benchmarks.machine import extent, fast_dtypes, in_turns, options, ratios, report
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.load import DTYPES, as_image_model, as_language_model
from lineas_core.prompts.subjects import SUBJECTS

OPENINGS = (
    "Once upon a time", "The weather today", "My neighbour told me", "In the morning",
    "She opened the door", "The recipe begins", "A letter arrived", "We walked along",
)  # fmt: skip
STRENGTHS = tuple(n / 6 for n in range(7))
IMAGE_ROWS = 4
SEED = 0


def measure_texts(model: lc.LanguageModel, tokens: int, rounds: int) -> None:
    """Print the time of seven calls divided by that of a sweep, and how many texts differ."""
    smap = random_map(model, model.sites(model.default_sites), OPENINGS[0], SEED)

    def at_once() -> list[list[str]]:
        return model.sweep(
            OPENINGS, [(smap, None)], STRENGTHS, seed=SEED, max_new_tokens=tokens
        ).texts

    def one_by_one() -> list[list[str]]:
        columns = [
            model.generate(OPENINGS, [(smap, s)], seed=SEED, max_new_tokens=tokens)
            for s in STRENGTHS
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    # This also serves as the warm-up run of both.
    differing = sum(
        a != b
        for these, those in zip(at_once(), one_by_one(), strict=True)
        for a, b in zip(these, those, strict=True)
    )
    times = in_turns({"sweep": at_once, "calls": one_by_one}, rounds, model.device, warmups=0)
    pairs = ratios(times["calls"], times["sweep"])
    dtype = str(model.module.dtype).removeprefix("torch.")
    report(
        f"seven calls over one sweep of texts, {dtype}",
        statistics.median(pairs),
        spread=extent(pairs),
        seeds=[SEED],
        device=model.device,
        model=model.id,
        grid=f"{len(OPENINGS)} x {len(STRENGTHS)} of {tokens} tokens",
        texts_equal=differing == 0,
        texts_differing=differing,
        sweep_seconds=extent(times["sweep"]),
        calls_seconds=extent(times["calls"]),
    )


def measure_images(model: DiffusionModel, rounds: int) -> None:
    """Print the time of seven calls divided by that of a sweep, and how much pixels differ."""
    prompts = SUBJECTS[:IMAGE_ROWS]
    smap = random_map(model, model.sites(model.default_sites), prompts[0], SEED)

    def at_once() -> list[Image]:
        grid = model.sweep(prompts, [(smap, None)], STRENGTHS, seed=SEED)
        return [image for row in grid.images for image in row]

    def one_by_one() -> list[Image]:
        columns = [model.generate(prompts, [(smap, s)], seed=SEED) for s in STRENGTHS]
        return [image for row in zip(*columns, strict=True) for image in row]

    # This also serves as the warm-up run of both.
    difference = largest_difference(at_once(), one_by_one())
    times = in_turns({"sweep": at_once, "calls": one_by_one}, rounds, model.device, warmups=0)
    pairs = ratios(times["calls"], times["sweep"])
    report(
        "seven calls over one sweep of images",
        statistics.median(pairs),
        spread=extent(pairs),
        seeds=[SEED],
        device=model.device,
        model=model.id,
        grid=f"{len(prompts)} x {len(STRENGTHS)}",
        largest_difference_of_255=difference,
        sweep_seconds=extent(times["sweep"]),
        calls_seconds=extent(times["calls"]),
    )


def largest_difference(these: Sequence[Image], those: Sequence[Image]) -> int:
    """The largest difference over all pixels and channels, from 0 to 255."""
    return max(
        int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())
        for a, b in zip(these, those, strict=True)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = options("sweeps")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=fast_dtypes())
    parser.add_argument("--images", default="emoji-onestep", help="the image model, as --model")
    parser.add_argument("--tokens", type=int, default=48, help="of each text")
    parser.add_argument("--rounds", type=int, default=2, help="of alternating runs")
    chosen = parser.parse_args(argv)
    for dtype in chosen.dtypes:
        model = lc.load_model(chosen.model, device=chosen.device, dtype=dtype)
        measure_texts(as_language_model(model), chosen.tokens, chosen.rounds)
    painter = as_image_model(lc.load_model(chosen.images, device=chosen.device))
    measure_images(painter, 2 * chosen.rounds)


if __name__ == "__main__":
    main()
