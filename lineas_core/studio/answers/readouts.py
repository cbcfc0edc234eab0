"""Metrics of the completions that the page shows."""

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
    """Presence of a concept that has no published word list, measured in two ways.

    Attributes:
        concept: its name.
        worded: number of texts that contain one of its words.
        judged: number of texts that the unsteered model expects among the map's target prompts
            rather than among its source prompts; None if its context is too short.
        texts: number of texts.
        right: balanced accuracy of that judgement on texts made of the map's own prompts, in
            [0, 1]; None if its context is too short.
    """

    concept: str
    worded: int
    judged: int | None
    texts: int
    right: float | None


@dataclass(frozen=True)
class Readout:
    """Metrics of a group of completions.

    Attributes:
        presence: (concept, number of texts that contain one of its words, number of texts).
        toxicity: mean, 0 to 1; None if it could not be scored.
        scorer: name of the toxicity scorer, or why there is no score.
        perplexity: under the unsteered model; None if there are no tokens.
        own: presence of the concepts that have no word list.
    """

    presence: tuple[tuple[str, int, int], ...]
    toxicity: float | None
    scorer: str
    perplexity: float | None
    own: tuple[OwnPresence, ...] = ()


class Judges:
    """Cache of calibrated judges, one per model and prompt set."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: dict[tuple[str, str], Judge] = {}

    def of(self, model: LanguageModel, concept: OwnConcept) -> Judge:
        """The judge for a concept, calibrated on first use."""
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
        model: the unsteered model that computes perplexity and judges `own` concepts.
        prompt: the prompt they continue.
        texts: the completions.
        concepts: concepts to look for; those without a word list are skipped.
        own: user-defined concepts, measured by their words and by the model's judgement.
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
    # Judge the completion without its prompt: a prompt that names the concept is not the map's
    # effect.
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
