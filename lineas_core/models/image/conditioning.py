"""Inputs of an image model's denoiser: the schedule and the encoded prompts."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """The denoising steps of a model.

    Attributes:
        steps: number of steps.
        timesteps: timestep of each step; empty for the scheduler's own.
        guidance: guidance scale passed to the pipeline; 0 for none.
    """

    steps: int
    timesteps: tuple[int, ...]
    guidance: float


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, as the denoiser reads them.

    Attributes:
        tokens: one vector per token.
        pooled: one vector per prompt; None if the pipeline has none.
    """

    tokens: Float[Tensor, "n tokens d"]
    pooled: Float[Tensor, "n p"] | None

    def rows(self, indices: Tensor) -> Conditioning:
        """The conditioning of some of the prompts."""
        return Conditioning(
            self.tokens[indices], None if self.pooled is None else self.pooled[indices]
        )
