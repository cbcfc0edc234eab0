"""Samples many continuations of one prefix, sharing its KV cache."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lineas_core.errors import ConfigError
from lineas_core.models.language.model import LanguageModel

# Lines already differ by their starts; more noise adds more nonsense than variety.
TEMPERATURE = 0.4
TOP_K = 40
MAX_NEW_TOKENS = 30
END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<!\bMt)(?<!\b[A-Z])[.!?…]+(?=\s|$)")

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Written:
    """A line that a model wrote.

    Attributes:
        text: its given start and the continuation, up to the end of the sentence.
        ended: whether the sentence is complete.
        ids: tokens of the given start, and of the continuation.
        loss: mean negative log-likelihood of the continuation, in nats per token.
    """

    text: str
    ended: bool
    ids: tuple[tuple[int, ...], tuple[int, ...]]
    loss: float


class Continuer:
    """Continues one list with many different lines at once; the list itself is read only once.

    Args:
        model: any causal language model.
        lead: the list, up to the beginning of a line.
        room: maximum number of tokens that follow it.

    Raises:
        ConfigError: the list and `room` exceed the model's context length.
    """

    def __init__(self, model: LanguageModel, lead: str, room: int = 2 * MAX_NEW_TOKENS) -> None:
        self._model = model
        ids = model.tokenizer(lead)["input_ids"]
        limit = getattr(model.module.config, "max_position_embeddings", None)
        if limit is not None and len(ids) + room > limit:
            raise ConfigError(
                f"{model.id} reads {limit} tokens; a list and what follows it take "
                f"{len(ids) + room}. Choose another model."
            )
        self._length = len(ids)
        with torch.no_grad():
            read = model.module(torch.tensor([ids], device=model.device), use_cache=True)
        self._cache = read.past_key_values

    @torch.no_grad()
    def write(
        self,
        starts: Sequence[str],
        seeds: Sequence[int],
        stop: Stop,
        *,
        whole_line: bool = False,
        most_tokens: int = MAX_NEW_TOKENS,
    ) -> list[Written]:
        """Sample one line for each start, in order.

        Args:
            starts: the beginning of each line, including the space before it.
            seeds: the noise seed of each line.
            stop: polled after each token; if true, only lines that have ended are returned.
            whole_line: continue past the end of a sentence.
            most_tokens: maximum number of tokens per line.
        """
        given = [self.ids(start) for start in starts]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        ids, mask, positions, cache = self._batch(given)
        rows = list(range(len(starts)))
        tokens: list[list[int]] = [[] for _ in starts]
        losses = [0.0] * len(starts)
        lines: dict[int, Written] = {}
        for step in range(most_tokens):
            logits = self._forward(ids, mask, positions, cache)[:, -1]
            top = logits.topk(min(TOP_K, logits.shape[1]))
            noise = torch.stack(
                [
                    -torch.empty(top.values.shape[1]).exponential_(generator=g).log()
                    for g in generators
                ]
            )
            choice = (top.values / TEMPERATURE + noise.to(logits.device)).argmax(1, keepdim=True)
            loss = (logits.logsumexp(1, keepdim=True) - top.values.gather(1, choice))[:, 0].tolist()
            ids = top.indices.gather(1, choice)
            for place, row in enumerate(rows):
                if row in lines:
                    continue
                tokens[row].append(int(ids[place]))
                losses[row] += loss[place]
                text, ended = self._text([*given[row], *tokens[row]], whole_line)
                if ended or step == most_tokens - 1:
                    pair = given[row], tuple(tokens[row])
                    lines[row] = Written(text, ended, pair, losses[row] / (step + 1))
            left = [place for place, row in enumerate(rows) if row not in lines]
            if not left or stop():
                break
            if len(left) <= len(rows) // 2:
                # Rows that have ended cost as much as others: copy the rest once half have ended.
                kept = torch.tensor(left, device=ids.device)
                ids, mask, positions = ids[kept], mask[kept], positions[kept]
                cache.batch_select_indices(kept)
                rows = [rows[place] for place in left]
                generators = [generators[place] for place in left]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1
        return [lines[row] for row in sorted(lines)]

    def losses(self, lines: Sequence[Written]) -> list[float]:
        """Mean loss of each line's continuation after this list, without its start."""
        rows = self.token_losses([[*a, *b] for a, b in (line.ids for line in lines)])
        return [
            float(row[-len(line.ids[1]) :].mean()) for row, line in zip(rows, lines, strict=True)
        ]

    @torch.no_grad()
    def token_losses(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each row, the loss of every token but the first, in nats, float32 on the CPU."""
        ids, mask, positions, cache = self._batch(rows)
        logits = self._forward(ids, mask, positions, cache)
        return [
            cross_entropy(logits[i, -len(row) : -1], ids[i, 1 - len(row) :], reduction="none").cpu()
            for i, row in enumerate(rows)
        ]

    @torch.no_grad()
    def expected(self, starts: Sequence[str]) -> Tensor:
        """Log-probabilities of the token after each start, (starts, vocabulary)."""
        batch = self._batch([self.ids(start) for start in starts])
        return self._forward(*batch)[:, -1].log_softmax(-1)

    def decoded(self, token: int) -> str:
        """A token as text."""
        return str(self._model.tokenizer.decode([token], skip_special_tokens=True))

    def ids(self, start: str) -> tuple[int, ...]:
        """The tokens of a text that continues the list."""
        return tuple(self._model.tokenizer(start, add_special_tokens=False)["input_ids"])

    def _batch(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Left-padded token rows, their mask and positions, and the list's cache for each row."""
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.ones(len(rows), self._length + longest, dtype=torch.long)
        for row, tokens in enumerate(rows):
            ids[row, longest - len(tokens) :] = torch.tensor(tokens)
            mask[row, self._length : self._length + longest - len(tokens)] = 0
        positions = (mask.cumsum(1) - 1)[:, self._length :]
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(rows))
        device = self._model.device
        return ids.to(device), mask.to(device), positions.to(device), cache

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        output = self._model.module(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        logits: Tensor = output.logits.float()
        return logits

    def _text(self, ids: list[int], whole_line: bool) -> tuple[str, bool]:
        text = self._model.tokenizer.decode(ids, skip_special_tokens=True).lstrip()
        ends = ids[-1] in self._ends()
        line, newline, _ = text.partition("\n")
        end = None if whole_line else END.search(line)
        # Only the text after it shows whether a full stop ends a sentence or is part of a number.
        if end and (end.end() < len(line) or newline or ends):
            return line[: end.end()].strip(), True
        return line.strip(), bool(newline) or ends

    def _ends(self) -> set[int]:
        ends = self._model.module.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}
