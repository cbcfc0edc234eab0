"""Training steps of large models with random weights: `python -m benchmarks.gpu`, on a GPU.

The shapes are those of the published models, the weights are random, in bfloat16: a step costs the
same. 32 prompts of 32 tokens, and of 64 for the largest. The figure is the share of the GPU's
largest matrix product (see `training.py`); beside it the seconds of 1,000 steps, from 50, and the
peak memory. `--size tiny` tries it with small shapes of the same kinds, on a CPU too.
"""

from __future__ import annotations

import gc
import statistics
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Gemma2Config, PretrainedConfig, Qwen2Config

import lineas_core as lc
from benchmarks.flops import count_work
from benchmarks.inputs import random_model, random_prompts
from benchmarks.machine import matrix_rate, seconds, watched_memory
from benchmarks.training import report_share
from lineas_core.system.devices import choose_device

# As their authors publish them in config.json.
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
# Name, kind, shape, tokens of each prompt.
RUNS: tuple[tuple[str, type[PretrainedConfig], dict[str, Any], int], ...] = (
    ("Qwen2.5-1.5B", Qwen2Config, QWEN_1B, 32),
    ("Gemma-2-2B", Gemma2Config, GEMMA_2B, 32),
    ("Qwen2.5-7B", Qwen2Config, QWEN_7B, 32),
    ("Qwen2.5-7B", Qwen2Config, QWEN_7B, 64),
)
PROMPTS, WARM_UP = 32, 5


def measure(
    name: str,
    config: PretrainedConfig,
    tokens: int,
    steps: int,
    device: torch.device,
    sizes: Sequence[int] | None,
) -> None:
    """Print the share of peak of a step of one model.

    Args:
        name: of the shape.
        config: with the shape.
        tokens: of each of the 32 + 32 prompts.
        steps: that are timed.
        device: to run on.
        sizes: of the matrices whose product is the peak.
    """
    model = random_model(name, config, device, torch.bfloat16)
    prompts = random_prompts(PROMPTS, tokens)
    # A low rate, for which random weights do not diverge; it changes no time.
    settings = lc.TrainConfig(rate=1e-3, holdout=0.0, batch_size=PROMPTS)
    before = matrix_rate(torch.bfloat16, device, sizes)
    with watched_memory(device) as memory:
        trainer = lc.Trainer(model, prompts, settings)
        times = seconds(trainer.step, steps, device, WARM_UP)
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
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print.

    Raises:
        SystemExit: full size was asked for, and there is no GPU.
    """
    parser = ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--steps", type=int, default=50, help="timed steps of each model")
    parser.add_argument("--sizes", type=int, nargs="+", help="of the matrices that give the peak")
    chosen = parser.parse_args(argv)
    device = choose_device("auto")
    if chosen.size == "full" and device.type != "cuda":
        raise SystemExit("No GPU was found, and full size needs one. Try --size tiny on this one.")
    for name, kind, shape, tokens in RUNS:
        measure(name, _config(kind, shape, chosen.size), tokens, chosen.steps, device, chosen.sizes)
        # The next model needs the room of this one.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _config(kind: type[PretrainedConfig], shape: dict[str, Any], size: str) -> PretrainedConfig:
    if size == "full":
        return kind(**shape)
    return kind(**TINY, **({"head_dim": TINY_HEAD} if "head_dim" in shape else {}))


if __name__ == "__main__":
    main()
