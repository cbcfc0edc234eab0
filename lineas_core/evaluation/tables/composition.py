"""Two concepts at once: how often texts contain both when two maps are composed.

Neutral openings are completed under the map of each concept alone, and under the maps of each
pair of concepts, in both orders. Presence is the share of completions with a word of the
concept's list, joint presence the share with a word of both lists. The unsteered model also judges
some of the same completions: it is asked whether a text mentions the concept, and the answer counts
as yes if its log-odds of "Yes" against "No" exceed the 95th percentile over its own unsteered
completions. A threshold at even odds would measure a small model's bias towards "Yes".

Refinement starts from the composition, which is nearly the same map in either order, and minimises
the same loss, so it is measured once per pair, in the order of the list.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lineas_core.diagnostics.copying import OPENINGS
from lineas_core.errors import ConfigError
from lineas_core.evaluation.cells import Bench, Cell, Fitted, Row, check_known, spread
from lineas_core.evaluation.report import Table, fields, markdown, with_spread
from lineas_core.evaluation.tables.concepts import FIRST_SEED, Completions, presence
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.names import TITLES
from lineas_core.methods.variants.refine import refine
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.perplexity import perplexity
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.load import as_language_model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPARSE, REFINED = "lineas-sparse", "lineas-refined"
FALSE_ALARMS = 0.05
# Few-shot examples: without them a small model answers no to every question.
QUESTION = """\
Text: The baker put the bread into the oven.
Does the text mention bread? Yes

Text: My aunt keeps her letters in a box.
Does the text mention music? No

Text: {text}
Does the text mention {concept}?"""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the table.

    Args:
        concepts: two or more prompt sets that have a word list; all pairs are measured.
        methods: keys of `TITLES`, lineas-sparse (LinEAS with a penalty) or lineas-refined (both
            maps of LinEAS, trained on as one).
        completions: per pair, divided among the openings.
        tokens: maximum tokens per completion.
        strength: of both maps.
        gamma: weight of the sparse group lasso for the sparse maps.
        refine_steps: steps of a refinement.
        refine_rate: learning rate of a refinement.
        judged: completions per pair that the model judges; 0 for none.
        read: completions per pair whose perplexity is measured.
    """

    concepts: tuple[str, ...] = ("football", "fishing", "day", "night", "elephant")
    methods: tuple[str, ...] = ("lin-act", "lineas", SPARSE, REFINED, "lineas+")
    completions: int = 200
    tokens: int = 32
    strength: float = 1.0
    gamma: float = 4.5e-4
    refine_steps: int = 20
    refine_rate: float = 1.0
    judged: int = 16
    read: int = 64


def measure(bench: Bench, sizes: Sizes, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure a row per concept alone and per pair, for each method and seed."""
    for concept in sizes.concepts:
        concept_presence([], concept)
    if len(set(sizes.concepts)) < max(2, len(sizes.concepts)):
        raise ConfigError(f"concepts is {sizes.concepts!r}; give two different ones or more.")
    check_known("methods", sizes.methods, (*TITLES, SPARSE, REFINED))
    outside = ("concepts", "methods")
    shared = {name: value for name, value in fields(sizes).items() if name not in outside}

    def cells(method: str, names: Iterable[tuple[str, str]]) -> list[Row]:
        return [
            {"method": method, "first": first, "second": second, "seed": seed, **shared}
            for first, second in names
            for seed in seeds
        ]

    alone = [(concept, "") for concept in sizes.concepts]
    plain = bench.rows("composition", cells("unsteered", alone), partial(_untouched, bench))
    limits = {(row.seed, row.first): row.limit for row in plain.itertuples()}
    steered = []
    for method in sizes.methods:
        pairs = permutations(sizes.concepts, 2)
        steered += cells(
            method, combinations(sizes.concepts, 2) if method == REFINED else [*alone, *pairs]
        )
    # The first unsteered cell generates the completions and the others reuse them, so the
    # slowest cell estimates the cost of a steered one.
    each = plain["seconds"].max()
    bench.tell(
        f"composition: {len(steered)} concepts and pairs, about {each:.0f} s each, "
        f"{len(steered) * each / 60:.0f} min in all, and the learning of their maps"
    )
    found = bench.rows("composition", steered, partial(_steered, bench, limits))
    return pd.concat([plain, found], ignore_index=True)


def yes_log_odds(model: LanguageModel, texts: Sequence[str], concept: str) -> list[float]:
    """For each text, log p("Yes") - log p("No") as answers to whether it mentions the concept.

    Call it outside of `steer`, or a steered model answers.
    """
    asked = [QUESTION.format(concept=concept, text=text) for text in texts]
    return model.log_odds(asked, " Yes", " No")


def _untouched(bench: Bench, cell: Cell) -> list[Row]:
    """Presence of a concept in unsteered completions, and the judge's threshold for it."""
    began = time.perf_counter()
    made = _complete(bench, cell, [])
    model = as_language_model(bench.model)
    # Estimating a 95th percentile needs more completions than estimating a share.
    odds = yes_log_odds(model, made.texts[: 4 * cell["judged"]], cell["first"])
    limit = float(np.quantile(odds, 1 - FALSE_ALARMS)) if odds else math.nan
    judged = float(np.mean(np.array(odds) > limit)) if odds else math.nan
    return [
        {
            "presence_first": presence(made.texts, cell["first"]),
            "judged_first": judged,
            "perplexity": made.perplexity,
            "limit": limit,
            "seconds": time.perf_counter() - began,
        }
    ]


def _steered(bench: Bench, limits: Mapping[tuple[int, str], float], cell: Cell) -> list[Row]:
    """Presence of one concept, or of two and of both, under the maps of a method."""
    names = [name for name in (cell["first"], cell["second"]) if name]
    maps = _learn(bench, cell, names)
    began = time.perf_counter()
    made = _complete(bench, cell, [found.map for found in maps])
    found: Row = {
        "perplexity": made.perplexity,
        "support": _support([found.map for found in maps]),
        "fit_seconds": sum(found.seconds for found in maps),
    }
    model = as_language_model(bench.model)
    asked = made.texts[: cell["judged"]]
    words = np.array([concept_presence(made.texts, name) for name in names])
    said = np.array(
        [np.array(yes_log_odds(model, asked, n)) > limits[cell["seed"], n] for n in names]
    )
    for kind, hits in (("presence", words), ("judged", said)):
        shares = hits.mean(axis=1).tolist() if hits.size else [math.nan] * len(names)
        found.update(zip((f"{kind}_first", f"{kind}_second"), shares, strict=False))
        if len(names) == 2:
            found[f"{kind}_both"] = float(hits.all(axis=0).mean()) if hits.size else math.nan
    return [{**found, "seconds": time.perf_counter() - began}]


def _support(maps: Sequence[SteeringMap]) -> float:
    """Share of the neurons, over all sites of the maps, that at least one of them changes."""
    changed: dict[str, Tensor] = {}
    for smap in maps:
        for site, affine in smap.sites.items():
            changed[site] = affine.changed | changed.get(site, affine.changed)
    return float(torch.cat([*changed.values()]).float().mean())


def _learn(bench: Bench, cell: Cell, names: Sequence[str]) -> list[Fitted]:
    """The maps to apply; each is learned once and shared by all cells."""
    method = "lineas" if cell["method"] in (SPARSE, REFINED) else cell["method"]
    config = TrainConfig.for_model(bench.model, method, seed=cell["seed"])
    prompts = [PromptSet.load(name) for name in names]
    if cell["method"] == SPARSE:
        config = replace(config, gamma=cell["gamma"])
    maps = [bench.fit(method, each, config) for each in prompts]
    if cell["method"] != REFINED:
        return maps
    parts = [(found.map, each) for found, each in zip(maps, prompts, strict=True)]
    config = replace(config, steps=cell["refine_steps"], rate=cell["refine_rate"])
    key = {
        "method": REFINED,
        "maps": [found.map.digest() for found in maps],
        "prompts": [each.hash() for each in prompts],
        "config": repr(config),
    }
    refined = bench.learned(key, lambda: refine(bench.model, parts, config))
    return [Fitted(refined.map, refined.seconds + sum(found.seconds for found in maps))]


def _complete(bench: Bench, cell: Cell, maps: Sequence[SteeringMap]) -> Completions:
    count, seed = cell["completions"], cell["seed"]
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(count)]
    noise = range(FIRST_SEED + seed * count, FIRST_SEED + (seed + 1) * count)
    texts = bench.texts(
        openings,
        [(smap, cell["strength"]) for smap in maps],
        noise,
        max_new_tokens=cell["tokens"],
        batch_size=200,
    )
    read = slice(cell["read"])
    return Completions(
        texts, perplexity(as_language_model(bench.model), openings[read], texts[read])
    )


def write(results: pd.DataFrame) -> str:
    """Presence alone and composed, one row per method, and joint presence by pair."""
    means = _means(results).set_index("method")
    base = means["both"].get("lin-act", 0.0)

    def share(row: Any, name: str) -> str:
        value = row[name]
        return "-" if math.isnan(value) else with_spread(value, row[f"{name}_sd"], ".0%")

    rows = [
        [
            method,
            *(share(row, name) for name in ("alone", "each", "both")),
            "-" if math.isnan(row["both_se"]) else f"{row['both_se']:.1%}",
            f"{row['both'] / base:.1f}" if base and not math.isnan(row["both"]) else "-",
            share(row, "both_judged"),
            with_spread(row["perplexity"], row["perplexity_sd"], ".1f"),
            "-" if math.isnan(row["support"]) else f"{row['support']:.0%}",
        ]
        for method, row in means.iterrows()
    ]
    head = [
        "method", "alone", "each, composed", "both", "its standard error", "both / lin-act",
        "both, judged", "perplexity", "support",
    ]  # fmt: skip
    parts = [
        "Share of completions with the concept: under its own map alone, under two maps, and "
        "with both concepts under two maps, whose standard error is that of the mean over pairs. "
        "Perplexity and support are those of pairs.",
        markdown(rows, head),
    ]
    for method in ("lineas", "lineas+"):
        pairs = results[(results["method"] == method) & (results["second"] != "")]
        if len(pairs):
            parts += [
                f"Both concepts under {TITLES[method]} by pair, the map of the row applied first.",
                _by_pair(pairs),
            ]
    return "\n\n".join(parts)


def _by_pair(pairs: pd.DataFrame) -> str:
    table = pairs.pivot_table("presence_both", "first", "second", sort=False)
    names = list(table.index)
    rows = [
        [first, *("" if first == second else f"{table.loc[first, second]:.0%}" for second in names)]
        for first in names
    ]
    return markdown(rows, ["first", *names])


def draw(results: pd.DataFrame, figure: Figure) -> None:
    """Bar chart with three groups: presence alone, presence composed, and joint presence."""
    means = _means(results)
    axes = figure.subplots()
    groups = {"alone": "alone", "each": "each, composed", "both": "both"}
    width = 0.8 / len(means)
    for number, row in enumerate(means.to_dict("records")):
        places = [group + (number + 0.5) * width - 0.4 for group in range(len(groups))]
        axes.bar(
            places,
            [row[name] for name in groups],
            width,
            yerr=[row[f"{name}_sd"] for name in groups],
            label=row["method"],
        )
    axes.set_xticks(range(len(groups)), groups.values())
    axes.set_ylabel("share of completions")
    axes.legend()


def _means(results: pd.DataFrame) -> pd.DataFrame:
    """Means over concepts and pairs, with standard deviation over seeds; one row per method."""
    rows = []
    for (method, seed), group in results.groupby(["method", "seed"], sort=False):
        alone, pairs = group[group["second"] == ""], group[group["second"] != ""]
        chosen = pairs if len(pairs) else alone
        rows.append(
            {
                "method": method,
                "seed": seed,
                "alone": alone["presence_first"].mean(),
                "each": pairs[["presence_first", "presence_second"]].stack().mean(),
                "both": pairs["presence_both"].mean(),
                "both_se": pairs["presence_both"].sem(),
                "both_judged": pairs["judged_both"].mean(),
                "perplexity": chosen["perplexity"].mean(),
                "support": chosen["support"].mean(),
            }
        )
    values = ["alone", "each", "both", "both_se", "both_judged", "perplexity", "support"]
    return spread(pd.DataFrame(rows), ["method"], values)


TABLE = Table(
    name="composition",
    title="Two concepts at once, by maps that are composed",
    source="LinEAS, Figure 4",
    model="smollm2",
    sizes=Sizes,
    measure=measure,
    write=write,
    draw=draw,
)
