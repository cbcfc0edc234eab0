"""How time scales with size: `python -m benchmarks.growth`.

Measures seconds per training step against prompts, tokens, sites and width, and seconds per text
sweep against strengths, on a small model with random weights. The figure is the exponent p of the
curve seconds = c * size^p, fitted to the fastest run of each point, since other load on the machine
only makes runs slower; the points are printed and plotted.
"""

from __future__ import annotations

import math
import statistics
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import LlamaConfig

import lineas_core as lc
from benchmarks.inputs import random_map, random_model, random_prompts
from benchmarks.machine import CPU, extent, report, seconds

PLOTS = Path(__file__).resolve().parents[1] / "docs" / "images" / "performance"
PROMPTS, TOKENS, WIDTH, LAYERS = 32, 24, 256, 8
NEW_TOKENS, ROWS = 16, 4
CURVES = {
    "prompts": (8, 16, 32, 64),
    "tokens": (8, 16, 32, 64, 96),
    "sites": (2, 4, 8),
    "width": (64, 128, 256, 512),
    "strengths": (1, 2, 4, 8, 16),
}


def measure_curve(
    name: str, sizes: Sequence[int], runs: int, plots: Path, width: int = WIDTH
) -> None:
    """Print one curve and its exponent, and plot it.

    Args:
        name: a key of `CURVES`.
        sizes: the points of the curve, ascending.
        runs: per point.
        plots: the folder to write NAME.png into.
        width: of the model, unless the curve varies it.
    """
    times = [_seconds_at(name, size, runs, width) for size in sizes]
    fastest = [min(found) for found in times]
    what = "a sweep" if name == "strengths" else "a training step"
    report(
        f"exponent of the time of {what} by {name}",
        exponent(sizes, fastest),
        spread=None,
        seeds=[0],
        points=[{name: size, **extent(found)} for size, found in zip(sizes, times, strict=True)],
    )
    plots.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    draw(figure, name, f"seconds of {what}", sizes, times)
    figure.savefig(plots / f"{name}.png", dpi=120)


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The slope of log time against log size, by least squares.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in times]
    return statistics.linear_regression(x, y).slope


def draw(
    figure: Figure, name: str, unit: str, sizes: Sequence[int], times: Sequence[Sequence[float]]
) -> None:
    """Plot the fastest and the other runs on logarithmic axes, with the fitted exponent."""
    fastest = [min(found) for found in times]
    slower = [max(found) - low for low, found in zip(fastest, times, strict=True)]
    axes = figure.add_subplot()
    axes.errorbar(sizes, fastest, yerr=[[0.0] * len(slower), slower], marker="o", capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter("{x:g}")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel(name)
    axes.set_ylabel(unit)
    axes.set_title(f"time grows with {name} to the {exponent(sizes, fastest):.2f}")
    axes.grid(alpha=0.3)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and plot."""
    parser = ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--curves", nargs="+", default=list(CURVES), choices=list(CURVES))
    parser.add_argument("--points", type=int, default=5, help="of each curve, smallest first")
    parser.add_argument("--runs", type=int, default=10, help="of each point")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the model")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="folder of the plots")
    chosen = parser.parse_args(argv)
    for name in chosen.curves:
        measure_curve(name, CURVES[name][: chosen.points], chosen.runs, chosen.plots, chosen.width)


def _seconds_at(name: str, size: int, runs: int, width: int) -> list[float]:
    """Times of one point: the varied quantity at `size`, everything else at its default."""
    model = _model(size if name == "width" else width)
    if name == "strengths":
        openings = random_prompts(ROWS, TOKENS).source
        smap = random_map(model, model.sites("layernorm"), openings[0])
        strengths = [n / size for n in range(size)]
        return seconds(
            lambda: model.sweep(openings, [(smap, None)], strengths, max_new_tokens=NEW_TOKENS),
            runs,
        )
    prompts = random_prompts(
        size if name == "prompts" else PROMPTS, size if name == "tokens" else TOKENS
    )
    config = lc.TrainConfig(
        rate=1e-3,
        holdout=0.0,
        batch_size=len(prompts.source),
        sites=_sites(size) if name == "sites" else "",
    )
    return seconds(lc.Trainer(model, prompts, config).step, runs)


def _model(width: int) -> lc.LanguageModel:
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        # No end-of-text token, so that every sweep generates the same number of tokens.
        eos_token_id=None,
    )
    return random_model(f"random llama of width {width}", config, CPU, torch.float32)


def _sites(count: int) -> str:
    """A pattern for the norm before the MLP in `count` layers, spaced evenly from first to last."""
    layers = [round(i * (LAYERS - 1) / (count - 1)) for i in range(count)]
    return rf"model\.layers\.({'|'.join(map(str, layers))})\.post_attention_layernorm"


if __name__ == "__main__":
    main()
