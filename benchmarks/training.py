"""How fast a language map trains: `python -m benchmarks.training`.

It measures three figures. Share of peak of a training step: the useful floating-point operations of
a step (`flops.py`) per second, as a share of the machine's peak matrix product rate, measured
before and after in the same dtype. Memory of a training step: what training adds to the loaded
model, in a process of its own. Time to a held-out Delta: training time, excluding the checks, until
the distance left on held-out prompts (`early_stop.py`) falls below a level, divided by the time of
fitting Lin-AcT and ITI-c on the same prompts.
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
    """Print the share of peak that a step reaches.

    The machine's peak may change by half from one minute to the next, so it is measured before
    and after every step, and the larger of the two is used for the step.

    Args:
        model: in the dtype to measure.
        prompts: all are used in every step.
        steps: number of timed steps, after three untimed ones.
        sizes: of the matrices whose product defines the peak.
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
    """Print the share of peak that the steps reached.

    Args:
        what: a description of the model and its inputs.
        times: seconds of each step.
        work: of each step.
        peaks: FLOP/s of a matrix product, measured around each step.
        device: the device they ran on.
        more: further values of the printed line.
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
    """Memory of building a trainer and running three steps, and MiB of the model's weights."""
    model = as_language_model(lc.load_model(name, device=device, dtype=dtype))
    prompts = cut_prompts(model.tokenizer, PROMPTS, SHORTEST, LONGEST)
    weights = sum(p.numel() * p.element_size() for p in model.module.parameters())
    # Read the weights first, because they come from disk when they are first used.
    with torch.no_grad():
        model.forward(model.prepare(prompts.target))
    with watched_memory(model.device) as memory:
        trainer = lc.Trainer(model, prompts, _settings(model, prompts))
        for _ in range(WARM_UP):
            trainer.step()
    return memory, weights / 2**20


def measure_memory(name: str, device: torch.device, dtype: str) -> None:
    """Print the memory that training adds, divided by the weights' size."""
    # Use a fresh process: one that has trained before would reuse memory it already holds.
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
    """Print the time to each level of the held-out distance, divided by that of closed forms.

    Args:
        model: in the dtype that users get.
        seeds: one training run each.
        limit: maximum steps of a run; None uses the model's default.
    """
    # Import it now: ITI-c imports it at its first fit, which would add a second to the timing.
    importlib.import_module("sklearn.linear_model")
    shipped = lc.PromptSet.load(SHIPPED)
    reached: dict[float, list[float]] = {level: [] for level in LEVELS}
    closed: dict[str, list[float]] = {method: [] for method in CLOSED_FORM}
    lowest = []
    steps = {} if limit is None else {"steps": limit}
    for seed in seeds:
        config = lc.TrainConfig.for_model(model, **steps, seed=seed)
        for method in CLOSED_FORM:
            # One fit, as in the paper: without ITI-c's search for how far to move.
            own = lc.TrainConfig.for_model(model, method, **steps, seed=seed, alpha=1.0)
            fitting = partial(lc.fit, method, model, shipped, own)
            closed[method] += seconds(fitting, 1, model.device, warmups=0)
        found, low = _time_to_levels(model, shipped, config)
        lowest.append(low)
        for level, moment in found.items():
            reached[level].append(moment)
    for method, fitted in closed.items():
        for level, taken in reached.items():
            # Report no time for a level that some seed did not reach.
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
    parser.add_argument("--sizes", type=int, nargs="+", help="matrix sizes that define the peak")
    chosen = parser.parse_args(argv)
    for dtype in chosen.dtypes:
        model = as_language_model(lc.load_model(chosen.model, device=chosen.device, dtype=dtype))
        prompts = cut_prompts(model.tokenizer, PROMPTS, SHORTEST, LONGEST)
        measure_step(model, prompts, chosen.steps, chosen.sizes)
        measure_memory(chosen.model, model.device, dtype)
    model = as_language_model(lc.load_model(chosen.model, device=chosen.device))
    measure_reach(model, range(chosen.repeats), chosen.limit)


def _settings(model: lc.LanguageModel, prompts: lc.PromptSet) -> lc.TrainConfig:
    # A low rate, so that training never diverges; it does not affect the time.
    return lc.TrainConfig.for_model(
        model, steps=1000, rate=1e-3, holdout=0.0, batch_size=len(prompts.source)
    )


def _time_to_levels(
    model: lc.LanguageModel, prompts: lc.PromptSet, config: lc.TrainConfig
) -> tuple[dict[float, float], float]:
    """Level -> seconds until the remaining distance is below it; and the lowest distance."""
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
