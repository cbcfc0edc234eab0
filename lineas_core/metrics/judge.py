"""Concept presence by the model's own judgement: what it expects among sentences about a concept.

A small model cannot be asked: to "does the text mention beekeeping?" it says yes to all that is
long. But it reads a text differently behind sentences about bees and behind others, and the few
tokens that become likelier most are those that a reader would point at.
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

# Sentences of each side that a text is read behind. Reading them is a few tenths of a second on
# two cores.
EXAMPLES = 8
# A concept shows in a word or two of a text; the mean over all tokens drowns them.
TELLING_TOKENS = 2
# Sentences of everyday life on either side of one that is calibrated on: as long as a completion.
AROUND = 2
# Share of the texts with the concept that are below the limit. Everyday sentences all score lower;
# what a steered model writes of something near does not.
MISSED = 0.25
BATCH = 16


def telling(
    model: LanguageModel, texts: Sequence[str], target: Sequence[str], source: Sequence[str]
) -> list[float]:
    """For each text, log p(token | target) - log p(token | source), mean of the 2 largest, in nats.

    The model is run as it is steered now: call it outside of `steer`.

    Args:
        model: any causal language model.
        texts: of any length; one without two tokens has a score of 0.
        target: sentences that hold a concept.
        source: sentences without it.

    Raises:
        ConfigError: the model reads too few tokens for the sentences and a text.
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
    """What tells texts with a concept from texts without it.

    Attributes:
        target: sentences with the concept that a text is read behind.
        source: sentences without it.
        limit: nats from which a text holds the concept.
        right: share of texts made of the other prompts that it tells rightly, in [0, 1]; the mean
            of both sides.
    """

    target: tuple[str, ...]
    source: tuple[str, ...]
    limit: float
    right: float

    @classmethod
    def of(cls, model: LanguageModel, prompts: PromptSet) -> Judge:
        """Calibrate on texts of five prompts, of which one is a target, or none.

        Args:
            model: that judges, unsteered.
            prompts: source without the concept, target with it.

        Raises:
            ConfigError: the model reads too few tokens.
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
        """For each text how sure the concept is, in (0, 1); 0.5 is at the limit.

        Raises:
            ConfigError: the model reads too few tokens.
        """
        scores = telling(model, texts, self.target, self.source)
        return [1 / (1 + math.exp(self.limit - score)) for score in scores]


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines) + "-"


def _halves(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sentences to read first, spread over the side, and the others; all, where they are few."""
    step = max(2, len(lines) // EXAMPLES)
    first = tuple(lines[::step][:EXAMPLES])
    return first, tuple(line for line in lines if line not in first) or first
