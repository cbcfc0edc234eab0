"""Concept presence and fluency of each method's map at each strength.

Neutral openings are completed many times at every strength. Presence is the share of
completions with a word of the concept's published list; perplexity is measured on the completions
under the unsteered model; copies is the share with five words in a row of a training prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from lineas_core.diagnostics.copying import OPENINGS, share_of_copies
from lineas_core.evaluation.cells import Bench, Cell, Row, check_known, spread
from lineas_core.evaluation.report import Table, strength_table, with_spread
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.names import TITLES
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.copies import WORDS
from lineas_core.metrics.perplexity import perplexity
from lineas_core.models.load import as_language_model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FIRST_SEED = 1000


@dataclass(frozen=True)
class Sizes:
    """Sizes of the table.

    Args:
        concepts: names of prompt sets that have a word list.
        methods: keys of `TITLES`.
        completions: per strength, divided among the four openings.
        tokens: maximum tokens per completion.
    """

    concepts: tuple[str, ...] = ("football", "night")
    methods: tuple[str, ...] = ("lineas", "lin-act")
    completions: int = 80
    tokens: int = 80


class Completions(NamedTuple):
    """Completions, and their perplexity under the unsteered model."""

    texts: list[str]
    perplexity: float


def complete(
    bench: Bench, smap: SteeringMap, strength: float, count: int, tokens: int, seed: int
) -> Completions:
    """Generate `count` completions, cycling through the openings, each with its own seed."""
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(count)]
    noise = range(FIRST_SEED + seed * count, FIRST_SEED + (seed + 1) * count)
    texts = bench.texts(openings, [(smap, strength)], noise, max_new_tokens=tokens, batch_size=100)
    return Completions(texts, perplexity(as_language_model(bench.model), openings, texts))


def presence(texts: Sequence[str], concept: str) -> float:
    """Share of the texts that contain a word of the concept."""
    return sum(concept_presence(texts, concept)) / len(texts)


def measure(bench: Bench, sizes: Sizes, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure a row per concept, method, seed (of training and completions) and strength.

    Raises:
        ConfigError: there is no such method.
    """
    check_known("methods", sizes.methods, TITLES)
    for concept in sizes.concepts:
        concept_presence([], concept)

    def measure_cell(cell: Cell) -> list[Row]:
        config = TrainConfig.for_model(bench.model, cell["method"], seed=cell["seed"])
        prompts = PromptSet.load(cell["concept"])
        training, _ = prompts.split(config.holdout, config.seed)
        fitted = bench.fit(cell["method"], prompts, config)
        rows: list[Row] = []
        for strength in STRENGTHS:
            made = complete(
                bench, fitted.map, strength, cell["completions"], cell["tokens"], cell["seed"]
            )
            rows.append(
                {
                    "strength": strength,
                    "presence": presence(made.texts, cell["concept"]),
                    "perplexity": made.perplexity,
                    "copies": share_of_copies(made.texts, training),
                    "fit_seconds": fitted.seconds,
                }
            )
        return rows

    cells = [
        {
            "concept": concept,
            "method": method,
            "seed": seed,
            "completions": sizes.completions,
            "tokens": sizes.tokens,
            "copied_words": WORDS,
        }
        for concept in sizes.concepts
        for method in sizes.methods
        for seed in seeds
    ]
    return bench.rows("concepts", cells, measure_cell)


def write(results: pd.DataFrame) -> str:
    """Presence / perplexity / copies, a row per concept and method, a column per strength."""

    def cell(row: Any) -> str:
        shown = with_spread(row.presence, row.presence_sd, ".0%")
        perplexity = with_spread(row.perplexity, row.perplexity_sd, ".1f")
        return f"{shown} / {perplexity} / {with_spread(row.copies, row.copies_sd, '.0%')}"

    return strength_table(_means(results), "concept", cell)


def draw(results: pd.DataFrame, figure: Figure) -> None:
    """Plot presence (top) and perplexity (bottom) against strength, one column per concept."""
    means = _means(results)
    concepts = list(means["concept"].unique())
    axes = figure.subplots(2, len(concepts), sharex=True, sharey="row", squeeze=False)
    for column, concept in enumerate(concepts):
        found = means[means["concept"] == concept]
        for method, line in found.groupby("method", sort=False):
            for row, value in enumerate(("presence", "perplexity")):
                axes[row, column].errorbar(
                    line["strength"], line[value], line[f"{value}_sd"], marker="o", label=method
                )
        axes[0, column].set_title(concept)
        axes[1, column].set_xlabel("strength")
    axes[0, 0].set_ylabel("share with the concept")
    axes[1, 0].set_ylabel("perplexity")
    axes[1, 0].set_yscale("log")
    axes[0, 0].legend()


def _means(results: pd.DataFrame) -> pd.DataFrame:
    by = ["concept", "method", "strength"]
    return spread(results, by, ["presence", "perplexity", "copies", "fit_seconds"])


TABLE = Table(
    name="concepts",
    title="Concept presence and perplexity at each strength",
    source="LinEAS, Section 4.1: concepts in language models",
    model="smollm2",
    sizes=Sizes,
    measure=measure,
    write=write,
    draw=draw,
)
