"""Concept presence judged by the model itself, from token likelihoods in two contexts.

Asking a small model does not work: to "does the text mention beekeeping?" it answers yes for any
long text. Instead, compare the likelihood of each token after sentences about bees with that after
other sentences: the few tokens that gain most are those that a reader would point at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lineas_core.models.language.continuation import Continuer
from lineas_core.models.language.model import LanguageModel
from lineas_core.prompts.prompt_set import PromptSet

# Sentences of each side that are read before a text. Reading them takes a few tenths of a second on
# two cores.
EXAMPLES = 8
# A concept shows in one or two words of a text; the mean over all tokens would hide them.
TELLING_TOKENS = 2
# Everyday sentences before and after each calibration sentence, to make it as long as a completion.
AROUND = 2
# Share of the texts with the concept that score below the limit. Everyday sentences all score lower
# still; steered texts on a related topic do not.
MISSED = 0.25
BATCH = 16


def telling(
    model: LanguageModel, texts: Sequence[str], target: Sequence[str], source: Sequence[str]
) -> list[float]:
    """For each text, log p(token | target) - log p(token | source), mean of the 2 largest, in nats.

    The model runs with any maps that are currently on it, so call this outside of `steer`.

    Args:
        model: any causal language model.
        texts: any length; a text of fewer than two tokens scores 0.
        target: sentences with the concept.
        source: sentences without it.

    Raises:
        ConfigError: the sentences and a text exceed the model's context length.
    """
    rows = [model.tokenizer(f" {t.strip()}", add_special_tokens=False)["input_ids"] for t in texts]
    read = [i for i, row in enumerate(rows) if len(row) > 1]
    if not read:
        return [0.0] * len(rows)
    room = max(len(rows[i]) for i in read)
    lists = [Continuer(model, _listed(lines), room) for lines in (target, source)]
    found = [0.0] * len(rows)
    for begin in range(0, len(read), BATCH):
        part = read[begin : begin + BATCH]
        with_it, without = (each.token_losses([rows[i] for i in part]) for each in lists)
        for i, a, b in zip(part, with_it, without, strict=True):
            gain = b - a
            found[i] = float(gain.topk(min(TELLING_TOKENS, len(gain))).values.mean())
    return found


@dataclass(frozen=True)
class Judge:
    """Decides whether a text contains a concept.

    Attributes:
        target: sentences with the concept, read before a text.
        source: sentences without it, read before a text.
        limit: score in nats above which a text contains the concept.
        right: balanced accuracy on texts made of the remaining prompts, in [0, 1].
    """

    target: tuple[str, ...]
    source: tuple[str, ...]
    limit: float
    right: float

    @classmethod
    def of(cls, model: LanguageModel, prompts: PromptSet) -> Judge:
        """Calibrate on texts of five prompts, at most one of which is a target.

        Args:
            model: the judging model, unsteered.
            prompts: source without the concept, target with it.

        Raises:
            ConfigError: the prompts exceed the model's context length.
        """
        target, others = _halves(prompts.target)
        source, everyday = _halves(prompts.source)
        filler = itertools.cycle(everyday)

        def amid(line: str) -> str:
            before, after = ([next(filler) for _ in range(AROUND)] for _ in range(2))
            return " ".join([*before, line, *after])

        texts = [amid(line) for line in (*others, *everyday)]
        scores = np.array(telling(model, texts, target, source))
        held, free = np.split(scores, [len(others)])
        limit = float(np.quantile(held, MISSED))
        right = ((held > limit).mean() + (free <= limit).mean()) / 2
        return cls(target, source, limit, float(right))

    def presence(self, model: LanguageModel, texts: Sequence[str]) -> list[float]:
        """For each text, the confidence that it contains the concept, in (0, 1); 0.5 at the limit.

        Raises:
            ConfigError: a text exceeds the model's context length.
        """
        scores = telling(model, texts, self.target, self.source)
        return [1 / (1 + math.exp(self.limit - score)) for score in scores]


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines) + "-"


def _halves(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Up to `EXAMPLES` evenly spaced sentences, and the rest; the same ones if none are left."""
    step = max(2, len(lines) // EXAMPLES)
    first = tuple(lines[::step][:EXAMPLES])
    return first, tuple(line for line in lines if line not in first) or first
