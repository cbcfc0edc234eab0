"""What an image model's denoiser is given: how it denoises, and what it reads of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """How a model denoises.

    Attributes:
        steps: how often.
        timesteps: at which; empty for the scheduler's own.
        guidance: what the pipeline is called with; 0 is none.
    """

    steps: int
    timesteps: tuple[int, ...]
    guidance: float


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser reads of prompts.

    Attributes:
        tokens: one vector per token.
        pooled: one vector per prompt; None where the pipeline has none.
    """

    tokens: Float[Tensor, "n tokens d"]
    pooled: Float[Tensor, "n p"] | None

    def rows(self, indices: Sequence[int]) -> Conditioning:
        """That of some of the prompts."""
        chosen = list(indices)
        return Conditioning(
            self.tokens[chosen], None if self.pooled is None else self.pooled[chosen]
        )
