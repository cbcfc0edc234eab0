"""Encoded prompts, as an image model's denoiser reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, as the denoiser reads them.

    Attributes:
        tokens: one vector per token.
        pooled: one vector per prompt; None if the pipeline has none.
        mask: True (or 1) at the tokens of a prompt, 0 at its padding; None if the denoiser reads
            the padding too, or if there is none.
    """

    tokens: Float[Tensor, "n tokens d"]
    pooled: Float[Tensor, "n p"] | None = None
    mask: Shaped[Tensor, "n tokens"] | None = None

    def rows(self, indices: Tensor) -> Conditioning:
        """The conditioning of some of the prompts."""
        return replace(
            self,
            tokens=self.tokens[indices],
            pooled=None if self.pooled is None else self.pooled[indices],
            mask=None if self.mask is None else self.mask[indices],
        )

    def mask_at(self, tokens: int) -> Bool[Tensor, "n tokens"] | None:
        """The mask of a site's output that has `tokens` tokens; None if all of them are real."""
        if self.mask is None or self.mask.shape[1] != tokens:
            return None
        return self.mask.bool()
