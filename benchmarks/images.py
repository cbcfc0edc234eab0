"""Timings of the embedded image model: `python -m benchmarks.images`.

Prints one JSON object per line: the median seconds over several runs, and the ratio to the time of
an unsteered image in the same run.
"""

from __future__ import annotations

import statistics
import time

import lineas_core as lc
from benchmarks.machine import seconds, show
from lineas_core.models.image.model import DiffusionModel
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.scenes.grid import score_grid
from lineas_core.studio.tabs.images.grid_options import STRENGTHS


def main() -> None:
    """Measure and print."""
    model = lc.load_model("emoji-onestep", device="cpu")
    assert isinstance(model, DiffusionModel)
    prompts = lc.PromptSet.load("emoji-watercolor")
    began = time.perf_counter()
    smap = lc.train(model, prompts).map
    training = time.perf_counter() - began
    count = iter(range(1_000_000))

    def grid_with_scores() -> None:
        # A new seed each time, so that no score comes from a cache.
        grid = model.sweep(SUBJECTS[:4], [(smap, None)], STRENGTHS, seed=next(count))
        score_grid(grid, prompts.concept)

    def plain_image() -> None:
        model.generate(SUBJECTS[:1], seed=next(count))

    def steered_image() -> None:
        model.generate(SUBJECTS[:1], [(smap, 1.0)], seed=next(count))

    plain = statistics.median(seconds(plain_image, 20))
    figures = {
        "one image": plain,
        "one steered image": statistics.median(seconds(steered_image, 20)),
        "grid of 4 prompts by 7 strengths, with scores": statistics.median(
            seconds(grid_with_scores, 5)
        ),
        "training a style map": training,
    }
    for name, value in figures.items():
        show(name, seconds=value, images=value / plain)


if __name__ == "__main__":
    main()
