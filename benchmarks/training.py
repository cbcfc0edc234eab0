"""How fast a language map trains: `python -m benchmarks.training`.

share of peak of a training step: the useful floating-point operations of a step (`flops.py`) over
its time, as a share of the machine's largest matrix product, measured before and after in the same
dtype. memory of a training step: what training adds to the loaded model, in a process of its own.
time to a held-out Delta: training until the distance left on held-out prompts (`early_stop.py`)
falls below a level, without the checks, over the time of fitting Lin-AcT and ITI-c on the same
prompts.
"""

from __future__ import annotations

import importlib
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise

import torch

import lineas_core as lc
from benchmarks.flops import Work, count_work
from benchmarks.inputs import SHIPPED, cut_prompts
from benchmarks.machine import (
    Memory,
    extent,
    fast_dtypes,
    matrix_rate,
    options,
    ratios,
    report,
    seconds,
    watched_memory,
)
from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.models.load import DTYPES, as_language_model

PROMPTS, SHORTEST, LONGEST = 32, 9, 40
WARM_UP = 3
LEVELS = (0.9, 0.8, 0.7, 0.6)
CLOSED_FORM = ("lin-act", "iti-c")


def measure_step(
    model: lc.LanguageModel, prompts: lc.PromptSet, steps: int, sizes: Sequence[int] | None = None
) -> None:
    """Print the share of peak of one step.

    The machine's own rate may change by half from one minute to the next, so it is taken before
    and after every step, and the larger of the two counts for the step.

    Args:
        model: at the dtype that is measured.
        prompts: all of them in every step.
        steps: that are timed, after three that are not.
        sizes: of the matrices whose product is the peak.
    """
    dtype, device = model.module.dtype, model.device
    trainer = lc.Trainer(model, prompts, _settings(model, prompts))
    seconds(trainer.step, WARM_UP, device, warmups=0)
    times, rates = [], [matrix_rate(dtype, device, sizes)]
    for _ in range(steps):
        times += seconds(trainer.step, 1, device, warmups=0)
        rates.append(matrix_rate(dtype, device, sizes))
    report_share(
        _named(dtype),
        times,
        count_work(model, model.prepare(prompts.source), trainer.sites),
        [max(around) for around in pairwise(rates)],
        device,
        model=model.id,
        prompts=f"{len(prompts.source)} + {len(prompts.target)}",
        sites=len(trainer.sites),
    )


def report_share(
    what: str,
    times: Sequence[float],
    work: Work,
    peaks: Sequence[float],
    device: torch.device,
    **more: object,
) -> None:
    """Print the share of peak that steps reached.

    Args:
        what: they are steps of.
        times: seconds of each.
        work: of each.
        peaks: floating-point operations a second of a matrix product, when each was taken.
        device: that they ran on.
        more: what else belongs to the line.
    """
    shares = [work.total / time / peak for time, peak in zip(times, peaks, strict=True)]
    report(
        f"share of peak of a training step, {what}",
        statistics.median(shares),
        spread=extent(shares),
        seeds=[0],
        device=device,
        **more,
        tokens=work.tokens,
        step_seconds=extent(times),
        flops=work.total,
        attention_flops=work.attention,
        peak_flops_per_second=extent(peaks),
    )


def step_memory(name: str, device: str, dtype: str) -> tuple[Memory, float]:
    """Of building a trainer and three steps, in MiB; and of the model's weights."""
    model = as_language_model(lc.load_model(name, device=device, dtype=dtype))
    prompts = cut_prompts(model.tokenizer, PROMPTS, SHORTEST, LONGEST)
    weights = sum(p.numel() * p.element_size() for p in model.module.parameters())
    # Weights come from the disk when they are first used.
    with torch.no_grad():
        model.forward(model.prepare(prompts.target))
    with watched_memory(model.device) as memory:
        trainer = lc.Trainer(model, prompts, _settings(model, prompts))
        for _ in range(WARM_UP):
            trainer.step()
    return memory, weights / 2**20


def measure_memory(name: str, device: torch.device, dtype: str) -> None:
    """Print what training adds, over the weights' size."""
    # A process that has trained before holds memory that it would not ask for again.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        memory, weights = fresh.submit(step_memory, name, str(device), dtype).result()
    report(
        f"memory that training adds, over the weights, {dtype}",
        memory.growth / weights,
        spread=None,
        seeds=[0],
        device=device,
        model=name,
        growth_mebibytes=memory.growth,
        peak_mebibytes=memory.peak,
        weights_mebibytes=weights,
    )


def measure_reach(model: lc.LanguageModel, seeds: Sequence[int], limit: int | None) -> None:
    """Print the time to each level of the held-out distance, over that of the closed forms.

    Args:
        model: at the dtype that users get.
        seeds: one training each.
        limit: steps of a training; None takes the model's own.
    """
    # ITI-c imports it at its first fit, which takes a second that is no part of fitting.
    importlib.import_module("sklearn.linear_model")
    shipped = lc.PromptSet.load(SHIPPED)
    reached: dict[float, list[float]] = {level: [] for level in LEVELS}
    closed: dict[str, list[float]] = {method: [] for method in CLOSED_FORM}
    lowest = []
    steps = {} if limit is None else {"steps": limit}
    for seed in seeds:
        config = lc.TrainConfig.for_model(model, **steps, seed=seed)
        for method in CLOSED_FORM:
            fitting = partial(lc.fit, method, model, shipped, config)
            closed[method] += seconds(fitting, 1, model.device, warmups=0)
        found, low = _time_to_levels(model, shipped, config)
        lowest.append(low)
        for level, moment in found.items():
            reached[level].append(moment)
    for method, fitted in closed.items():
        for level, taken in reached.items():
            # A level that some seed did not reach has no time.
            pairs = ratios(taken, fitted) if len(taken) == len(fitted) else []
            report(
                f"time to {level:.0%} of the held-out Delta, over that of {method}",
                statistics.median(pairs) if pairs else None,
                spread=extent(pairs) if pairs else None,
                seeds=seeds,
                device=model.device,
                model=model.id,
                prompts=shipped.name,
                seconds=taken,
                fit_seconds=fitted,
                lowest_left=lowest,
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = options("training")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=fast_dtypes())
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each dtype")
    parser.add_argument("--repeats", type=int, default=3, help="trainings to a held-out Delta")
    parser.add_argument("--limit", type=int, help="steps of such a training")
    parser.add_argument("--sizes", type=int, nargs="+", help="of the matrices that give the peak")
    chosen = parser.parse_args(argv)
    for dtype in chosen.dtypes:
        model = as_language_model(lc.load_model(chosen.model, device=chosen.device, dtype=dtype))
        prompts = cut_prompts(model.tokenizer, PROMPTS, SHORTEST, LONGEST)
        measure_step(model, prompts, chosen.steps, chosen.sizes)
        measure_memory(chosen.model, model.device, dtype)
    model = as_language_model(lc.load_model(chosen.model, device=chosen.device))
    measure_reach(model, range(chosen.repeats), chosen.limit)


def _settings(model: lc.LanguageModel, prompts: lc.PromptSet) -> lc.TrainConfig:
    # A low rate, for which no prompts and no weights diverge; it changes no time.
    return lc.TrainConfig.for_model(
        model, steps=1000, rate=1e-3, holdout=0.0, batch_size=len(prompts.source)
    )


def _time_to_levels(
    model: lc.LanguageModel, prompts: lc.PromptSet, config: lc.TrainConfig
) -> tuple[dict[float, float], float]:
    """Level -> seconds until the distance left is below it; and the lowest distance."""
    began = time.perf_counter()
    trainer = lc.Trainer(model, prompts, config)
    prepared = time.perf_counter() - began
    distance = TargetDistance(
        model,
        trainer.held_out,
        trainer.sites,
        pooling=config.pooling,
        batch_size=config.batch_size,
    )
    found: dict[float, float] = {}
    lowest = 1.0
    while not trainer.done and len(found) < len(LEVELS):
        trainer.step()
        lowest = min(lowest, distance.left(trainer.map)[0])
        for level in LEVELS:
            if lowest < level:
                found.setdefault(level, prepared + trainer.seconds)
    return found, lowest


def _named(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


if __name__ == "__main__":
    main()
