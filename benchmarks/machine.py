"""What every benchmark shares: the machine, the clock, and the line that a figure is printed as."""

from __future__ import annotations

import json
import platform
import statistics
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
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
    """MiB in use: before, and at most. Of the process on a CPU, of torch's tensors on a GPU."""

    before: float
    peak: float

    @property
    def growth(self) -> float:
        """What was needed on top."""
        return self.peak - self.before


def options(name: str, model: str = "smollm2") -> ArgumentParser:
    """What every benchmark of a model can be told."""
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--model", default=model, help="short name, folder or hub id")
    parser.add_argument("--device", default="cpu", help="auto takes a GPU where there is one")
    return parser


def fast_dtypes() -> list[str]:
    """In which a model is measured: bfloat16 only where the CPU has instructions for it."""
    return ["float32", "bfloat16"] if cpu_has_bfloat16() else ["float32"]


def show(figure: str, **values: object) -> None:
    """Print a figure as one JSON line, numbers with four significant digits."""
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
    """Print a figure with all that is needed to compare it with that of another run.

    Args:
        figure: its name.
        value: a ratio, or a share; None where it could not be measured.
        spread: over the repeats, of the same quantity; None where it was measured once.
        seeds: of all that was drawn.
        device: that the model ran on.
        more: what the value was computed from.
    """
    show(
        figure,
        value=value,
        spread=spread,
        **more,
        seeds=list(seeds),
        machine=machine(device),
        versions={name: version(name) for name in PACKAGES},
    )


def machine(device: torch.device = CPU) -> dict[str, object]:
    """Processor, threads, and the GPU where one is used."""
    found: dict[str, object] = {"processor": _processor(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile (the nearest rank) and how many there are."""
    ordered = sorted(seconds)
    rank = max(0, -(-95 * len(ordered) // 100) - 1)
    return {"p50": statistics.median(ordered), "p95": ordered[rank], "count": len(ordered)}


def extent(values: Sequence[float]) -> dict[str, float]:
    """Smallest, median, largest and how many: for repeats too few to have percentiles."""
    return {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "count": len(values),
    }


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """Of what was measured side by side, one ratio a round."""
    return [a / b for a, b in zip(these, those, strict=True)]


def seconds(
    action: Callable[[], object], runs: int, device: torch.device = CPU, warmups: int = 1
) -> list[float]:
    """Of `runs` runs, after some that are not counted."""
    for _ in range(warmups):
        action()
    return [_timed(action, device) for _ in range(runs)]


def in_turns(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device = CPU,
    warmups: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each action, A B A B ..., so that a slow minute of the machine hits them alike."""
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
    """Floating-point operations a second of the best square matrix product, the machine's peak."""
    best = 0.0
    for size in sizes or SIZES[device.type]:
        a, b = torch.randn(2, size, size, dtype=dtype, device=device)
        result = torch.empty_like(a)
        times = seconds(partial(torch.mm, a, b, out=result), runs, device)
        best = max(best, 2 * size**3 / min(times))
    return best


@contextmanager
def watched_memory(device: torch.device = CPU) -> Iterator[Memory]:
    """Memory of the block. On a CPU only what the process did not hold before counts as growth."""
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
