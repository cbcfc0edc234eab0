"""Sampling whose noise depends on the seed, not on the batch.

transformers calls it like one of its own logits processors. It does not derive from them, as their
import takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lineas_core.errors import ConfigError
from lineas_core.system.devices import indices_on

# SplitMix64: its increment, and the shifts and factors of its finaliser.
GAMMA = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31
# Fewer bits than float32 holds, so that no number rounds to 1.
BITS = 23
MAX_NEW_TOKENS = 2048


@dataclass(frozen=True)
class Sampling:
    """How a model writes: the settings of `LanguageModel.generate` that all its prompts share.

    Attributes:
        max_new_tokens: 1 to `MAX_NEW_TOKENS`.
        temperature: 0 for greedy decoding.
        top_k: sample among the k likeliest tokens; 0 for all of them.
        batch_size: prompts that run at once.

    Raises:
        ConfigError: a setting is out of range.
    """

    max_new_tokens: int = 80
    temperature: float = 1.0
    top_k: int = 50
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise ConfigError(
                f"max_new_tokens is {self.max_new_tokens}; choose 1 to {MAX_NEW_TOKENS}."
            )
        for name, least in (("temperature", 0), ("top_k", 0), ("batch_size", 1)):
            if not (given := getattr(self, name)) >= least:
                raise ConfigError(f"{name} is {given}; it must be {least} or more.")

    def noise(self, seeds: Sequence[int], device: torch.device) -> GumbelNoise | None:
        """The noise of rows with these seeds; None for greedy decoding."""
        return GumbelNoise(seeds, self.top_k, device) if self.temperature > 0 else None


class GumbelNoise:
    """Turns greedy decoding into sampling, with one noise stream per seed.

    `argmax_j (logit_j + g_j)` with g from the standard Gumbel distribution is a sample of
    softmax(logits) (Gumbel 1954; Maddison et al. 2014). The noise of a token depends only on the
    seed, the step and the token, and is only drawn for candidate tokens: for token j it is computed
    from the j-th number of a SplitMix64 stream (Steele, Lea and Flood 2014), which does not require
    the numbers before it.

    Args:
        seeds: one for each row.
        top_k: sample among the k likeliest tokens; 0 for all of them.
        device: of the logits.
    """

    def __init__(
        self, seeds: Sequence[int], top_k: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        mixed = [_signed(_mixed(seed)) for seed in seeds]
        self._device, self._top_k = torch.device(device), top_k
        self._seeds = indices_on(self._device, mixed)
        # On the device, so that a graph of a step counts on by itself.
        self._step = torch.zeros((), dtype=torch.long, device=device)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows only, in this order."""
        self._seeds = self._seeds[indices_on(self._device, rows)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add the next noise of each row to its logits; -inf at tokens outside the top k."""
        scores = scores.float()
        rows = _finalised(self._seeds + self._step + _signed(GAMMA))[:, None]
        self._step.add_(1)
        if not 0 < self._top_k < scores.shape[1]:
            return scores + _gumbel(rows, torch.arange(scores.shape[1], device=scores.device))
        values, tokens = scores.topk(self._top_k)
        noisy = values + _gumbel(rows, tokens)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, noisy)


def _mixed(number: int) -> int:
    """SplitMix64's finaliser of `number` + GAMMA, as an unsigned 64-bit number."""
    mask = 2**64 - 1
    x = (number + GAMMA) & mask
    for shift, factor in MIX:
        x = ((x ^ (x >> shift)) * factor) & mask
    return x ^ (x >> LAST_SHIFT)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _gumbel(states: Tensor, places: Tensor) -> Tensor:
    """Standard Gumbel noise from the numbers at `places` of the streams `states`, both int64."""
    x = _finalised(states + (places + 1) * _signed(GAMMA))
    uniform: Tensor = (_shifted(x, 64 - BITS).float() + 0.5) / 2**BITS
    noise: Tensor = -(-uniform.log()).log()
    return noise


def _finalised(x: Tensor) -> Tensor:
    """SplitMix64's finaliser of unsigned 64-bit numbers, held as int64."""
    for shift, factor in MIX:
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, LAST_SHIFT)


def _shifted(x: Tensor, shift: int) -> Tensor:
    """Logical right shift of an unsigned number; torch's own shift repeats the sign bit."""
    moved: Tensor = (x >> shift) & ((1 << (64 - shift)) - 1)
    return moved
