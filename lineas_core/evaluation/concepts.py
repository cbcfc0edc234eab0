"""How much of a concept, and of fluency, each method's map gives at each strength.

Neutral openings are completed many times at every strength. Presence is the share of
completions with a word of the concept's published list; perplexity is that of the completions
under the unsteered model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from lineas_core.evaluation.tables import strength_table
from lineas_core.maps import SteeringMap
from lineas_core.methods import fit
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.perplexity import perplexity
from lineas_core.models.language import LanguageModel
from lineas_core.prompts import PromptSet

OPENINGS = (
    "Once upon a time",
    "My friends and I",
    "People often talk about",
    "The newspaper said that",
)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FIRST_SEED = 1000


@dataclass(frozen=True)
class ConceptRow:
    """One cell of the table.

    Attributes:
        concept: name of the prompt set and of the word list.
        method: how the map was learned.
        strength: of the map.
        presence: share of completions with the concept.
        perplexity: of the completions, under the unsteered model.
        completions: how many.
        fit_seconds: what the map took to learn.
    """

    concept: str
    method: str
    strength: float
    presence: float
    perplexity: float
    completions: int
    fit_seconds: float


def evaluate_concepts(
    model: LanguageModel,
    concepts: Sequence[str],
    methods: Sequence[str] = ("lineas", "lin-act"),
    *,
    completions: int = 100,
    strengths: Sequence[float] = STRENGTHS,
    on_event: Callable[[str], object] | None = None,
) -> pd.DataFrame:
    """Fit a map by each method to each concept's shipped prompts, and measure it.

    Args:
        model: the model to steer, which is also the judge of fluency.
        concepts: names of shipped prompt sets that have a word list.
        methods: names of methods (`lineas_core.methods`).
        completions: per strength, shared among the four openings, each with a seed of its own.
        strengths: of the maps.
        on_event: told in a line what goes on.

    Returns:
        One row per concept, method and strength, with the fields of `ConceptRow`.
    """
    tell = on_event or (lambda line: None)
    rows: list[ConceptRow] = []
    # Strength 0 is the untouched model, whatever the map: its completions are made once.
    untouched: Completions | None = None
    for concept in concepts:
        prompts = PromptSet.load(concept)
        for method in methods:
            tell(f"{concept}: fitting {method}")
            began = time.perf_counter()
            smap = fit(method, model, prompts)
            seconds = time.perf_counter() - began
            for strength in strengths:
                tell(f"{concept}: {completions} completions, {method} at strength {strength:g}")
                if strength == 0 and untouched is not None:
                    made = untouched
                else:
                    made = complete(model, smap, strength, completions)
                if strength == 0:
                    untouched = made
                present = concept_presence(made.texts, concept)
                rows.append(
                    ConceptRow(
                        concept=concept,
                        method=method,
                        strength=strength,
                        presence=sum(present) / len(present),
                        perplexity=made.perplexity,
                        completions=completions,
                        fit_seconds=seconds,
                    )
                )
    return pd.DataFrame(rows)


class Completions(NamedTuple):
    """Completions at one strength, and their perplexity under the unsteered model."""

    texts: list[str]
    perplexity: float


def complete(model: LanguageModel, smap: SteeringMap, strength: float, count: int) -> Completions:
    """Complete the openings in turn, `count` times in all, each with a seed of its own."""
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(count)]
    texts = model.generate(
        openings,
        [(smap, strength)],
        seed=[FIRST_SEED + i for i in range(count)],
        batch_size=100,
    )
    return Completions(texts, perplexity(model, openings, texts))


def concept_table(results: pd.DataFrame) -> str:
    """The results as a Markdown table: a row per concept and method, a column per strength."""
    return strength_table(
        results, "concept", lambda row: f"{row.presence:.0%} / {row.perplexity:.1f}"
    )
