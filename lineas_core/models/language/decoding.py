"""Generates one batch of completions, removing rows as they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import transformers
from torch import Tensor

from lineas_core.models.language.sampling import GumbelNoise

TOKENS_A_LOOK = 3
# Share of ended rows from which a smaller batch is worth copying its cache and its maps.
ENDED = 0.25

Rows = list[int]


class _Watch:
    """Stopping criterion: ends a segment once enough rows have ended, and reports each token.

    transformers calls it like one of its own stopping criteria. It does not derive from them, as
    their import takes seconds.
    """

    def __init__(self, end: frozenset[int], share: float, tell: Callable[[Tensor], object]) -> None:
        self._end, self._share = torch.tensor(sorted(end), dtype=torch.long), share
        self._tell = tell
        self.ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **_: object) -> Tensor:
        self._tell(input_ids)
        now = torch.isin(input_ids[:, -1], self._end.to(input_ids.device))
        self.ended = now if self.ended is None else self.ended | now
        over = self.ended.float().mean() >= self._share
        return over.expand(len(input_ids))


def decode(
    module: transformers.PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    *,
    steered: Callable[[Rows], AbstractContextManager[None]],
    noise: GumbelNoise | None,
    before_noise: Sequence[Any],
    max_new_tokens: int,
    pad: int,
    drops: bool,
    tell: Callable[[list[list[int]]], object] | None = None,
) -> list[list[int]]:
    """Generate the tokens that follow each prompt, without the end token.

    transformers keeps a row in the batch until the last one has ended. Here a batch is generated in
    segments: each ends when a quarter of its rows have, and the next continues with the others and
    their part of the key-value cache.

    Args:
        module: the model.
        ids, mask: token ids and mask of the left-padded prompts, shape (n, tokens).
        steered: context manager that applies the maps of the given rows, in the given order.
        noise: one row per prompt; None for greedy decoding.
        before_noise: logits processors that run before the noise.
        max_new_tokens: >= 1.
        pad: id of the padding token.
        drops: whether rows can leave the model's cache; otherwise all run until the last ends.
        tell: called every few tokens with the tokens of all rows so far.
    """
    ends = module.generation_config.eos_token_id
    end = frozenset([ends] if isinstance(ends, int) else ends or ())
    rows, length = list(range(len(ids))), ids.shape[1]
    found: list[list[int]] = [[] for _ in rows]
    cache: Any = None

    def looked(tokens: Tensor) -> None:
        if tell and (tokens.shape[1] - length) % TOKENS_A_LOOK == 0:
            for row, new in zip(rows, tokens[:, length:].tolist(), strict=True):
                found[row] = _until(new, end)
            tell(found)

    while True:
        processors = transformers.LogitsProcessorList(before_noise)
        if noise is not None:
            processors.append(noise)
        watch = _Watch(end, ENDED if drops else 1.0, looked)
        with steered(rows):
            output = module.generate(
                ids,
                attention_mask=mask,
                past_key_values=cache,
                logits_processor=processors,
                stopping_criteria=transformers.StoppingCriteriaList([watch]),
                generation_config=transformers.GenerationConfig(
                    do_sample=False,
                    return_dict_in_generate=True,
                    max_length=length + max_new_tokens,
                    pad_token_id=pad,
                    eos_token_id=None,
                    bos_token_id=module.generation_config.bos_token_id,
                ),
            )
        ids = output.sequences
        for row, new in zip(rows, ids[:, length:].tolist(), strict=True):
            found[row] = _until(new, end)
        assert watch.ended is not None
        left = (~watch.ended).nonzero()[:, 0]
        if len(left) == 0 or ids.shape[1] == length + max_new_tokens:
            return found
        cache = output.past_key_values
        cache.batch_select_indices(left)
        written = mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])
        ids, mask = ids[left], torch.cat([mask, written], dim=1)[left]
        kept = left.tolist()
        rows = [rows[place] for place in kept]
        if noise is not None:
            noise.keep(kept)


def _until(tokens: list[int], end: frozenset[int]) -> list[int]:
    """The tokens before the first end token."""
    return next((tokens[:i] for i, token in enumerate(tokens) if token in end), tokens)
