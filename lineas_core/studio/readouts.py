"""What is measured of texts that are on the screen; what could not be, says why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lineas_core.errors import LineasError
from lineas_core.metrics.concepts import concept_presence, concept_words
from lineas_core.metrics.perplexity import perplexity
from lineas_core.metrics.toxicity import toxicity
from lineas_core.models.language import LanguageModel


@dataclass(frozen=True)
class Readout:
    """Figures of some completions.

    Attributes:
        presence: (concept, texts that hold a word of it, texts).
        toxicity: mean, 0 to 1; None where it could not be scored.
        scorer: what toxicity comes from, or why there is none.
        perplexity: under the unsteered model; None where there is no token.
    """

    presence: tuple[tuple[str, int, int], ...]
    toxicity: float | None
    scorer: str
    perplexity: float | None


def read_out(
    model: LanguageModel, prompt: str, texts: Sequence[str], concepts: Sequence[str]
) -> Readout:
    """Measure completions of one prompt.

    Args:
        model: the judge of perplexity, unsteered.
        prompt: what they follow.
        texts: the completions.
        concepts: to look for, where there are word lists.
    """
    counted = tuple(
        (concept, sum(concept_presence(texts, concept)), len(texts))
        for concept in concepts
        if concept in concept_words()
    )
    toxic: float | None = None
    try:
        scores = toxicity(texts)
        toxic, scorer = sum(scores) / len(scores), scores.scorer
    except LineasError as error:
        scorer = str(error)
    surprise = perplexity(model, [prompt] * len(texts), texts)
    return Readout(counted, toxic, scorer, surprise if math.isfinite(surprise) else None)
