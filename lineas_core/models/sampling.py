"""Sampling whose noise belongs to the seed, not to the batch, and that can be watched.

transformers calls these as its own logits processors and stopping criteria. They do not derive
from those, whose import takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import transformers
from torch import Tensor

TOKENS_A_LOOK = 3


class GumbelNoise:
    """Turns taking the likeliest token into sampling, with a stream of noise for each seed.

    `argmax_j (logit_j + g_j)` with g from the standard Gumbel distribution is a sample of
    softmax(logits) (Gumbel 1954; Maddison et al. 2014). Rows of one seed get the same noise.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        distinct = list(dict.fromkeys(seeds))
        self._generators = [torch.Generator().manual_seed(seed) for seed in distinct]
        self._rows = torch.tensor([distinct.index(seed) for seed in seeds])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add the next noise of each row to its logits."""
        tiny = torch.finfo(torch.float32).tiny
        noise = torch.stack(
            [
                -torch.empty(scores.shape[1]).exponential_(generator=g).clamp(min=tiny).log()
                for g in self._generators
            ]
        )
        return scores.float() + noise[self._rows].to(scores.device)


class TellSoFar:
    """Stops nothing: tells what has been written so far, every few tokens.

    Args:
        tokenizer: decodes.
        prompt_tokens: columns of the prompts, left out.
        tell: called with one text a row.
    """

    def __init__(
        self,
        tokenizer: transformers.PreTrainedTokenizerBase,
        prompt_tokens: int,
        tell: Callable[[list[str]], object],
    ) -> None:
        self._tokenizer, self._start, self._tell = tokenizer, prompt_tokens, tell

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **_: object) -> Tensor:
        """No row is to stop."""
        if (input_ids.shape[1] - self._start) % TOKENS_A_LOOK == 0:
            texts = self._tokenizer.batch_decode(
                input_ids[:, self._start :], skip_special_tokens=True
            )
            self._tell(texts)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
