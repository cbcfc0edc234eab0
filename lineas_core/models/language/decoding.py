"""Generates one batch of completions, removing rows as they end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from lineas_core.models.language.fixed_step import FixedStep, taken
from lineas_core.models.language.sampling import GumbelNoise
from lineas_core.system.devices import indices_on
from lineas_core.system.graphs import Graphs, Replayed

TOKENS_A_LOOK = 3
# Share of ended rows from which a smaller batch is worth copying its cache and its maps.
ENDED = 0.25
# The same where each size of a batch takes a graph: its capture costs as much as tens of replays,
# of which a smaller batch saves a part only, since the weights are read for any number of rows.
ENDED_BESIDE_GRAPH, TOKENS_WORTH_SHRINKING = 0.5, 128
# Fewer tokens than this are written as fast without a graph.
TOKENS_WORTH_GRAPH = 8
# New tokens that a cache of fixed size has room for at first; each time it is full, as many again.
ROOM = 256

Rows = list[int]


class Written(NamedTuple):
    """What has been written of a row.

    Attributes:
        tokens: its new tokens, without the end token.
        ended: whether it is finished: the model wrote its end token, or the caller stopped the row.
    """

    tokens: list[int]
    ended: bool


class Completion(NamedTuple):
    """What has been written of a row, with its text."""

    text: str
    tokens: list[int]
    ended: bool


# Returns the places of rows that are to end.
Tell = Callable[[list[Written]], Collection[int]]


@dataclass(frozen=True)
class Batch:
    """Prompts to be continued together, and how.

    Attributes:
        module: the model.
        ids, mask: token ids and mask of the left-padded prompts, shape (n, tokens).
        steered: context manager that applies the maps of the given rows, in the given order.
        noise: one row per prompt; None for greedy decoding.
        before_noise: logits processors that run before the noise.
        max_new_tokens: >= 1.
        pad: id of the padding token.
    """

    module: transformers.PreTrainedModel
    ids: Tensor
    mask: Tensor
    steered: Callable[[Rows], AbstractContextManager[None]]
    noise: GumbelNoise | None
    before_noise: Sequence[Any]
    max_new_tokens: int
    pad: int

    @property
    def processors(self) -> list[Any]:
        """What changes the logits before the likeliest token is taken, in order."""
        return [*self.before_noise, *([self.noise] if self.noise is not None else [])]

    def generate(
        self, ids: Tensor, mask: Tensor, length: int, *, cache: Any = None, stop: Any = None
    ) -> Any:
        """Continue rows up to a length by transformers.

        Args:
            ids, mask: tokens so far, and the mask of those in the cache or of all.
            length: tokens of a row at most, its prompt included.
            cache: of all tokens but the last.
            stop: a stopping criterion.
        """
        return self.module.generate(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            logits_processor=transformers.LogitsProcessorList(self.processors),
            stopping_criteria=transformers.StoppingCriteriaList([stop] if stop else []),
            generation_config=transformers.GenerationConfig(
                do_sample=False,
                return_dict_in_generate=True,
                max_length=length,
                pad_token_id=self.pad,
                eos_token_id=None,
                bos_token_id=self.module.generation_config.bos_token_id,
            ),
        )


def decode(
    batch: Batch, *, drops: bool, tell: Tell | None = None, graphs: Graphs | None = None
) -> list[Written]:
    """Generate the tokens that follow each prompt.

    Args:
        batch: the prompts.
        drops: whether rows can leave the model's cache; otherwise all run until the last ends.
        tell: called every few tokens with all rows so far; ends those that it returns.
        graphs: writes over a cache of fixed size, and replays the step of a token as a graph where
            these can be had; None leaves the steps to transformers.
    """
    ends = batch.module.generation_config.eos_token_id
    end = frozenset([ends] if isinstance(ends, int) else ends or ())
    texts = _Completions(len(batch.ids), end, tell)
    if graphs is None:
        _decode_by_transformers(batch, texts, ENDED if drops else 1.0)
    else:
        _decode_by_fixed_steps(batch, texts, graphs)
    return texts.written


def _decode_by_transformers(batch: Batch, texts: _Completions, ended: float) -> None:
    """Write until all rows have ended.

    transformers keeps a row in the batch until the last one has ended. Here a batch is generated in
    segments: each ends when the share `ended` of its rows have, and the next continues with the
    others and their part of the key-value cache.
    """
    ids, mask, cache = batch.ids, batch.mask, None
    rows, prompt = list(range(len(ids))), ids.shape[1]
    length = prompt + batch.max_new_tokens

    def read(tokens: Tensor) -> None:
        texts.add(rows, tokens[:, prompt + texts.length :].tolist())

    def look(tokens: Tensor) -> list[bool]:
        if texts.told and (tokens.shape[1] - prompt) % TOKENS_A_LOOK == 0:
            read(tokens)
        return [texts.ended[row] for row in rows]

    while True:
        watch = _Watch(texts.end, ended, look)
        with batch.steered(rows):
            output = batch.generate(ids, mask, length, cache=cache, stop=watch)
        ids = output.sequences
        read(ids)
        assert watch.ended is not None
        left = (~watch.ended).nonzero()[:, 0]
        if len(left) == 0 or ids.shape[1] == length:
            return
        cache = output.past_key_values
        cache.batch_select_indices(left)
        written = mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])
        ids, mask = ids[left], torch.cat([mask, written], dim=1)[left]
        kept = left.tolist()
        rows = [rows[place] for place in kept]
        if batch.noise is not None:
            batch.noise.keep(kept)


def _decode_by_fixed_steps(batch: Batch, texts: _Completions, graphs: Graphs) -> None:
    """Write until all rows have ended, by steps that wait for the device at every look only.

    transformers writes the first token. The others come in segments of one batch size and one size
    of cache; a segment ends when its cache is full, or when a smaller batch is worth another graph.
    """
    rows, prompt = list(range(len(batch.ids))), batch.ids.shape[1]
    step: FixedStep | None = None
    written, room = 1, ROOM
    while True:
        room = min(room, batch.max_new_tokens - written)
        with batch.steered(rows):
            if step is None:
                first = batch.generate(batch.ids, batch.mask, prompt + 1)
                layers = taken(first.past_key_values)
                step = FixedStep(
                    batch.module, first.sequences, batch.mask, layers, batch.processors, room
                )
            run = Replayed(step, graphs, batch.ids.device) if room >= TOKENS_WORTH_GRAPH else step
            full = written + room
            while True:
                for _ in range(min(TOKENS_A_LOOK - written % TOKENS_A_LOOK, full - written)):
                    run()
                    written += 1
                texts.add(rows, step.ids[:, prompt + texts.length : prompt + written].tolist())
                left = [place for place, row in enumerate(rows) if not texts.ended[row]]
                to_come = batch.max_new_tokens - written
                if not left or not to_come:
                    return
                shrinks = len(left) <= ENDED_BESIDE_GRAPH * len(rows)
                if written == full or (shrinks and to_come >= TOKENS_WORTH_SHRINKING):
                    break
        rows = [rows[place] for place in left]
        if batch.noise is not None:
            batch.noise.keep(left)
        # As many again as have been written, since most texts end early.
        room = min(max(ROOM, written), to_come)
        step = step.keep(indices_on(batch.ids.device, left), prompt + written, room)


class _Completions:
    """Tokens of each row, up to its end.

    Attributes:
        end: the end tokens.
        found: tokens of each row, without its end token.
        ended: whether each row has.
        length: number of tokens of a row that were added, whether or not it has ended.
        told: whether somebody listens.
    """

    def __init__(self, count: int, end: frozenset[int], tell: Tell | None) -> None:
        self.end, self.told, self._tell = end, tell is not None, tell
        self.found: list[list[int]] = [[] for _ in range(count)]
        self.ended = [False] * count
        self.length = 0

    @property
    def written(self) -> list[Written]:
        """All rows so far."""
        return [Written(*row) for row in zip(self.found, self.ended, strict=True)]

    def add(self, rows: Rows, tokens: Sequence[Sequence[int]]) -> None:
        """Add the next tokens of some rows, and tell all rows every few tokens.

        Nothing is told of tokens behind the end of all rows.

        Args:
            rows: all rows that have not ended, and others.
            tokens: as many of each row.
        """
        count, goes_on = len(tokens[0]), False
        for row, new in zip(rows, tokens, strict=True):
            if self.ended[row]:
                continue
            place = next((i for i, token in enumerate(new) if token in self.end), count)
            self.found[row] = [*self.found[row], *new[:place]]
            self.ended[row] = place < count
            goes_on = goes_on or place >= count - 1
        self.length += count
        if self._tell and count and goes_on and self.length % TOKENS_A_LOOK == 0:
            for row in self._tell(self.written):
                self.ended[row] = True


class _Watch:
    """Stopping criterion: ends a segment once enough rows have ended.

    `look` gets the tokens after each new one, and returns which rows have ended by what was read.

    transformers calls it like one of its own stopping criteria. It does not derive from them, as
    their import takes seconds.
    """

    def __init__(
        self, end: frozenset[int], share: float, look: Callable[[Tensor], list[bool]]
    ) -> None:
        self._end, self._share = torch.tensor(sorted(end), dtype=torch.long), share
        self._look = look
        self.ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **_: object) -> Tensor:
        read = self._look(input_ids)
        now = torch.isin(input_ids[:, -1], self._end.to(input_ids.device))
        if any(read):
            now = now | torch.tensor(read, device=now.device)
        self.ended = now if self.ended is None else self.ended | now
        over = self.ended.float().mean() >= self._share
        return over.expand(len(input_ids))
