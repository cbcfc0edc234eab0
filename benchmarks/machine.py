"""Shared by all benchmarks: machine description, timing, memory, and printing of figures."""

from __future__ import annotations

import json
import platform
import statistics
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from lineas_core.system.devices import cpu_has_bfloat16

PACKAGES = ("torch", "transformers", "diffusers", "gradio")
CPU = torch.device("cpu")
SIZES = {"cpu": (1024, 2048, 4096), "cuda": (2048, 4096, 8192)}
SECONDS_BETWEEN_LOOKS = 0.002


@dataclass
class Memory:
    """MiB in use at the start and at the peak: of the process on a CPU, of tensors on a GPU."""

    before: float
    peak: float

    @property
    def growth(self) -> float:
        """Peak minus start."""
        return self.peak - self.before


def options(name: str, model: str = "smollm2") -> ArgumentParser:
    """A parser with the options that all benchmarks of a model share."""
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--model", default=model, help="short name, folder or hub id")
    parser.add_argument("--device", default="cpu", help="auto takes a GPU where there is one")
    return parser


def fast_dtypes() -> list[str]:
    """The dtypes to measure: bfloat16 only if the CPU has instructions for it."""
    return ["float32", "bfloat16"] if cpu_has_bfloat16() else ["float32"]


def show(figure: str, **values: object) -> None:
    """Print a figure as one JSON line, with numbers rounded to four significant digits."""
    print(json.dumps({"figure": figure, **_rounded(values)}), flush=True)


def report(
    figure: str,
    value: float | None,
    *,
    spread: Mapping[str, float] | None,
    seeds: Sequence[int],
    device: torch.device = CPU,
    **more: object,
) -> None:
    """Print a figure with everything needed to compare it with another run.

    Args:
        figure: its name.
        value: a ratio or a share; None if it could not be measured.
        spread: of the same quantity over the repeats; None if it was measured once.
        seeds: all seeds that were used.
        device: the device that the model ran on.
        more: the quantities that the value was computed from.
    """
    show(
        figure,
        value=value,
        spread=spread,
        **more,
        seeds=list(seeds),
        machine=machine(device),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Versions of the packages that are here: a lent GPU may have fewer than the app needs."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine(device: torch.device = CPU) -> dict[str, object]:
    """Processor, threads, and the GPU if one is used."""
    found: dict[str, object] = {"processor": _processor(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile (nearest rank) and count."""
    ordered = sorted(seconds)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)
    return {"p50": statistics.median(ordered), "p95": ordered[rank], "count": len(ordered)}


def extent(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum and count: for too few repeats to have percentiles."""
    return {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "count": len(values),
    }


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """The ratio of each round, for values that were measured side by side."""
    return [a / b for a, b in zip(these, those, strict=True)]


def seconds(
    action: Callable[[], object], runs: int, device: torch.device = CPU, warmups: int = 1
) -> list[float]:
    """The seconds of each of `runs` runs, after `warmups` runs that are not counted."""
    for _ in range(warmups):
        action()
    return [_timed(action, device) for _ in range(runs)]


def in_turns(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device = CPU,
    warmups: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each action, alternating A B A B ..., so that a slow phase affects all equally."""
    for _ in range(warmups):
        for action in actions.values():
            action()
    found: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            found[name].append(_timed(action, device))
    return found


def matrix_rate(
    dtype: torch.dtype,
    device: torch.device = CPU,
    sizes: Sequence[int] | None = None,
    runs: int = 3,
) -> float:
    """The machine's peak FLOP/s: that of the fastest square matrix product among the sizes."""
    best = 0.0
    for size in sizes or SIZES[device.type]:
        a, b = torch.randn(2, size, size, dtype=dtype, device=device)
        result = torch.empty_like(a)
        times = seconds(partial(torch.mm, a, b, out=result), runs, device)
        best = max(best, 2 * size**3 / min(times))
    return best


@contextmanager
def watched_memory(device: torch.device = CPU) -> Iterator[Memory]:
    """Track memory during the block. On a CPU, memory reused from before does not count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        memory = Memory(_mebibytes(torch.cuda.memory_allocated(device)), 0.0)
        yield memory
        memory.peak = _mebibytes(torch.cuda.max_memory_allocated(device))
        return
    process, ended = psutil.Process(), threading.Event()
    start = _mebibytes(process.memory_info().rss)
    memory = Memory(start, start)

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            memory.peak = max(memory.peak, _mebibytes(process.memory_info().rss))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        ended.set()
        watcher.join()


def _timed(action: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    began = time.perf_counter()
    action()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mebibytes(count: int) -> float:
    return count / 2**20


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value
