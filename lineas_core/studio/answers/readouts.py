"""What is measured of texts that are on the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from lineas_core.errors import ConfigError, LineasError
from lineas_core.metrics.concepts import concept_presence, concept_words
from lineas_core.metrics.judge import Judge
from lineas_core.metrics.own_words import words_presence
from lineas_core.metrics.perplexity import perplexity
from lineas_core.metrics.toxicity import toxicity
from lineas_core.models.language.model import LanguageModel
from lineas_core.studio.answers.own_concepts import OwnConcept

MAX_JUDGES = 64


@dataclass(frozen=True)
class OwnPresence:
    """Presence of a concept that has no published list, two ways.

    Attributes:
        concept: its name.
        worded: texts that hold a word of it.
        judged: texts that the unsteered model expects among the map's target prompts rather
            than among its source prompts; None where it reads too few tokens.
        texts: how many there are.
        right: share of texts made of the map's own prompts that the model tells so, in [0, 1].
    """

    concept: str
    worded: int
    judged: int | None
    texts: int
    right: float | None


@dataclass(frozen=True)
class Readout:
    """Figures of some completions.

    Attributes:
        presence: (concept, texts that hold a word of it, texts).
        toxicity: mean, 0 to 1; None where it could not be scored.
        scorer: what toxicity comes from, or why there is none.
        perplexity: under the unsteered model; None where there is no token.
        own: presence of the concepts that have no word list.
    """

    presence: tuple[tuple[str, int, int], ...]
    toxicity: float | None
    scorer: str
    perplexity: float | None
    own: tuple[OwnPresence, ...] = ()


class Judges:
    """Calibrated judges, each made once for a model and a prompt set."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: dict[tuple[str, str], Judge] = {}

    def of(self, model: LanguageModel, concept: OwnConcept) -> Judge:
        """The judge of a concept."""
        key = (model.id, concept.prompts.hash())
        with self._lock:
            judge = self._made.get(key)
        if judge is None:
            judge = Judge.of(model, concept.prompts)
            with self._lock:
                self._made[key] = judge
                while len(self._made) > MAX_JUDGES:
                    self._made.pop(next(iter(self._made)))
        return judge


JUDGES = Judges()


def read_out(
    model: LanguageModel,
    prompt: str,
    texts: Sequence[str],
    concepts: Sequence[str],
    own: Sequence[OwnConcept] = (),
) -> Readout:
    """Measure completions of one prompt.

    Args:
        model: the judge of perplexity, unsteered.
        prompt: what they follow.
        texts: the completions.
        concepts: to look for, where there are word lists.
        own: to look for besides, by their words and by the model's judgement.
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
    finite = surprise if math.isfinite(surprise) else None
    return Readout(counted, toxic, scorer, finite, tuple(_own(model, texts, c) for c in own))


def _own(model: LanguageModel, texts: Sequence[str], concept: OwnConcept) -> OwnPresence:
    # The completion alone: an opening that names the concept is no merit of the map's.
    try:
        judge = JUDGES.of(model, concept)
        said: int | None = sum(score > 0.5 for score in judge.presence(model, texts))
        right: float | None = judge.right
    except ConfigError:
        said, right = None, None
    return OwnPresence(
        concept.name,
        sum(words_presence(texts, concept.words)),
        said,
        len(texts),
        right,
    )
