"""Concept presence by the model's own judgement: it is asked whether a text mentions a concept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lineas_core.models.language import LanguageModel
from lineas_core.prompts import PromptSet

# A small model answers rightly once it has seen how: without the examples it says no to anything.
QUESTION = """\
Text: The baker put the bread into the oven.
Does the text mention bread? Yes

Text: My aunt keeps her letters in a box.
Does the text mention music? No

Text: {text}
Does the text mention {concept}?"""
# Of each side. Reading them is the first answer's delay: a few seconds on two cores.
EXAMPLES = 6


def yes_log_odds(model: LanguageModel, texts: Sequence[str], concept: str) -> list[float]:
    """For each text, log p("Yes") - log p("No") as answers to whether it mentions the concept.

    The model is run as it is steered now: call it outside of `steer`.
    """
    asked = [QUESTION.format(concept=concept, text=text) for text in texts]
    return model.log_odds(asked, " Yes", " No")


@dataclass(frozen=True)
class Judge:
    """What a model's yes is worth about one concept.

    Attributes:
        concept: a few words.
        limit: log-odds of yes against no that tell target from source best. A small model is
            fond of one answer; even odds would measure that.
        right: share of the prompts that it tells by, in [0.5, 1]; the mean of both sides.
    """

    concept: str
    limit: float
    right: float

    @classmethod
    def of(cls, model: LanguageModel, prompts: PromptSet, concept: str = "") -> Judge:
        """Calibrate on prompts whose answers are known: 6 of each side, spread over the set.

        Args:
            model: that judges, unsteered.
            prompts: source without the concept, target with it.
            concept: a few words; the prompts' by default.
        """
        concept = concept or prompts.concept
        sides = [_spread(lines) for lines in (prompts.source, prompts.target)]
        odds = yes_log_odds(model, [*sides[0], *sides[1]], concept)
        no, yes = sorted(odds[: len(sides[0])]), sorted(odds[len(sides[0]) :])
        each = sorted({*no, *yes})
        limits = [
            each[0] - 1.0,
            *((a + b) / 2 for a, b in itertools.pairwise(each)),
        ]

        def right(limit: float) -> float:
            said = sum(o > limit for o in yes) / len(yes), sum(o <= limit for o in no) / len(no)
            return sum(said) / 2

        limit = max(limits, key=right)
        return cls(concept, limit, right(limit))

    def presence(self, model: LanguageModel, texts: Sequence[str]) -> list[float]:
        """For each text the likelihood of yes, in [0, 1], where 0.5 is at the limit."""
        filled = [text for text in texts if text.strip()]
        scores = iter(yes_log_odds(model, filled, self.concept) if filled else [])
        return [_sigmoid(next(scores) - self.limit) if text.strip() else 0.0 for text in texts]


def judge_presence(model: LanguageModel, texts: Sequence[str], prompts: PromptSet) -> list[float]:
    """For each text, how likely the model finds it that the prompts' concept is in it.

    The likelihood of "Yes" against "No", moved so that 0.5 is where the answers on the set's own
    target and source prompts are told apart best.
    """
    return Judge.of(model, prompts).presence(model, texts)


def _spread(lines: Sequence[str]) -> list[str]:
    step = max(1, len(lines) // EXAMPLES)
    return list(lines[::step][:EXAMPLES])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))
