"""Training steps of large models, and what steering costs: `python -m benchmarks.gpu`, on a GPU.

The shapes are those of the published models with random bfloat16 weights, which does not change the
cost of a step. There are 32 prompts of 32 tokens, or of 64 for the largest model. The figure is the
share of the GPU's peak matrix product rate (see `training.py`); also printed are the seconds for
1,000 steps, extrapolated from 50, the peak memory, whether the step is a CUDA graph, and, by
torch's profiler, its launches and the share of its time in which the GPU is busy. Each model runs
in a process of its own. `--size tiny` tests it with small shapes of the same architectures, also on
a CPU. It needs torch and transformers, diffusers for images, and neither the app's packages nor a
network. Image models are in `gpu_images.py`, and what steering costs is in `gpu_steering.py`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Gemma2Config, PretrainedConfig, Qwen2Config

import lineas_core as lc
from benchmarks.flops import count_work
from benchmarks.gpu_images import measure_image_step
from benchmarks.gpu_steering import measure_images, measure_tokens
from benchmarks.inputs import random_model, random_prompts
from benchmarks.machine import matrix_rate, watched_memory
from benchmarks.training import report_share
from lineas_core.system.devices import choose_device

# From the config.json of the published models.
QWEN_1B: dict[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
QWEN_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}
GEMMA_2B: dict[str, Any] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256_000,
}
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
TINY_HEAD = 8
# Key -> name, config class, shape, tokens per prompt.
RUNS: dict[str, tuple[str, type[PretrainedConfig], dict[str, Any], int]] = {
    "qwen-1.5b": ("Qwen2.5-1.5B", Qwen2Config, QWEN_1B, 32),
    "gemma-2b": ("Gemma-2-2B", Gemma2Config, GEMMA_2B, 32),
    "qwen-7b": ("Qwen2.5-7B", Qwen2Config, QWEN_7B, 32),
    "qwen-7b-long": ("Qwen2.5-7B", Qwen2Config, QWEN_7B, 64),
}
PROMPTS, WARM_UP, PROFILED = 32, 10, 10
# A training step of an image model, and what steering costs.
OTHERS = ("image-step", "tokens", "images")


def measure(
    name: str,
    config: PretrainedConfig,
    tokens: int,
    steps: int,
    device: torch.device,
    sizes: Sequence[int] | None,
) -> None:
    """Print the share of peak that a training step of one model reaches.

    Args:
        name: of the shape.
        config: defines the shape.
        tokens: of each of the 32 + 32 prompts.
        steps: number of timed steps.
        device: to run on.
        sizes: of the matrices whose product defines the peak.
    """
    model = random_model(name, config, device, torch.bfloat16)
    prompts = random_prompts(PROMPTS, tokens)
    # A low rate, so that random weights do not diverge; it does not affect the time.
    settings = lc.TrainConfig(rate=1e-3, holdout=0.0, batch_size=PROMPTS, steps=10_000)
    before = matrix_rate(torch.bfloat16, device, sizes)
    with watched_memory(device) as memory:
        trainer = lc.Trainer(model, prompts, settings)
        running = trainer.run()
        found = [event.seconds for event in islice(running, WARM_UP + steps)]
        times = [after - before for before, after in pairwise(found[WARM_UP - 1 :])]
        work_of_gpu = _profiled(trainer, running)
    peak = max(before, matrix_rate(torch.bfloat16, device, sizes))
    report_share(
        f"{name}, {PROMPTS} x {tokens} tokens, bfloat16",
        times,
        count_work(model, model.prepare(prompts.source), trainer.sites),
        [peak] * len(times),
        device,
        parameters=sum(p.numel() for p in model.module.parameters()),
        sites=len(trainer.sites),
        thousand_steps_seconds=1000 * statistics.fmean(times),
        peak_mebibytes=memory.peak,
        growth_mebibytes=memory.growth,
        graph=trainer.graphed,
        **work_of_gpu,
    )


def _profiled(trainer: lc.Trainer, running: Iterator[lc.StepEvent]) -> dict[str, float]:
    """Launches and kernels of a step, and the share of its time in which the GPU runs one."""
    if not torch.cuda.is_available():
        return {}
    done, began = len(trainer.losses), time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in islice(running, PROFILED):
            pass
    seconds, steps = time.perf_counter() - began, len(trainer.losses) - done
    events = profiler.events() or []
    kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    return {
        "launches_per_step": sum("Launch" in event.name for event in events) / steps,
        "kernels_per_step": len(kernels) / steps,
        "busy_share": sum(event.device_time for event in kernels) / 1e6 / seconds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 1 if a model failed.

    Raises:
        SystemExit: full size was requested, and there is no GPU.
    """
    parser = ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--steps", type=int, default=50, help="timed steps of each model")
    parser.add_argument("--sizes", type=int, nargs="+", help="matrix sizes that define the peak")
    parser.add_argument("--only", choices=(*RUNS, *OTHERS), help="one part; all by default")
    chosen = parser.parse_args(argv)
    device = choose_device("auto")
    if chosen.size == "full" and device.type != "cuda":
        raise SystemExit("No GPU was found, and full size needs one. Try --size tiny on this one.")
    tiny = chosen.size == "tiny"
    if chosen.only == "image-step":
        measure_image_step(device, chosen.steps, chosen.sizes, tiny=tiny)
        return 0
    if chosen.only == "images":
        measure_images(device, tiny=tiny)
        return 0
    if chosen.only == "tokens":
        name, kind, shape, _ = RUNS["qwen-1.5b"]
        measure_tokens(name, _config(kind, shape, chosen.size), device)
        return 0
    if chosen.only:
        name, kind, shape, tokens = RUNS[chosen.only]
        config = _config(kind, shape, chosen.size)
        measure(name, config, tokens, chosen.steps, device, chosen.sizes)
        return 0
    given = list(sys.argv[1:] if argv is None else argv)
    command = [sys.executable, "-m", "benchmarks.gpu", *given, "--only"]
    failed = [name for name in (*RUNS, *OTHERS) if subprocess.run([*command, name]).returncode]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _config(kind: type[PretrainedConfig], shape: dict[str, Any], size: str) -> PretrainedConfig:
    if size == "full":
        return kind(**shape)
    return kind(**TINY, **({"head_dim": TINY_HEAD} if "head_dim" in shape else {}))


if __name__ == "__main__":
    sys.exit(main())
