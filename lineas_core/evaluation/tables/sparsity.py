"""What a sparse map keeps (LinEAS, Figures 3 and 9), and the sparsest map within a budget.

There are two parts. The first decreases gamma from the largest value with any effect and measures
the penalised maps along the path, for few and for more steps per gamma. The second finds for each
concept the sparsest map that keeps a share of the dense one's effect
(`lineas_core.methods.variants.sparsify`).

Effect is the share of the held-out distance to the target that a map closes; presence is the share
of completions with a word of the concept; utility is the steered model's perplexity of plain
sentences unrelated to any set, which should not change from that of the untouched model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from lineas_core.diagnostics.copying import OPENINGS
from lineas_core.evaluation.cells import Bench, Cell, Row, spread
from lineas_core.evaluation.report import Table, markdown, with_spread
from lineas_core.evaluation.tables.concepts import FIRST_SEED
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.variants.sparsify import (
    SUPPORTS,
    PathConfig,
    SparseFitter,
    SparsePoint,
    sparsest,
)
from lineas_core.metrics.concepts import concept_presence, concept_words
from lineas_core.metrics.perplexity import perplexity
from lineas_core.models.load import as_language_model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steering import steer
from lineas_core.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A set whose target sentences have no particular topic.
PLAIN = "formality"
MAX_SUPPORT = 0.1


@dataclass(frozen=True)
class SparsitySizes:
    """Sizes of the table.

    Args:
        concepts: prompt sets with a word list, for the budget.
        kept: share of the dense map's effect that the budget requires.
        supports: shares of the neurons to try for the budget.
        curves: prompt sets for the curves over gamma.
        steps: proximal gradient steps per gamma, one curve for each value.
        curve_points: number of gammas per curve.
        curve_ratio: of each gamma to the previous one.
        completions: per map, for presence.
        tokens: of each completion.
        l1: penalty weight of single neurons.
        group: penalty weight of whole sites.
        batch_size: prompts per batch.
    """

    concepts: tuple[str, ...] = tuple(concept_words())
    kept: float = 0.95
    supports: tuple[float, ...] = SUPPORTS
    curves: tuple[str, ...] = ("football",)
    steps: tuple[int, ...] = (3,)
    curve_points: int = 5
    curve_ratio: float = 0.5
    completions: int = 60
    tokens: int = 32
    l1: float = 1.0
    group: float = 0.0
    batch_size: int = 64


def measure(bench: Bench, sizes: SparsitySizes, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure the rows of part `curve`, one per map along it, and of part `budget`.

    Each map has the columns `map` (untouched, dense, sparse), gamma, support, effect, presence,
    perplexity (of the completions, under the untouched model) and utility.
    """
    both = {key: getattr(sizes, key) for key in ("completions", "tokens", "l1", "group")}
    walk = {"kept": sizes.kept, "supports": list(sizes.supports)}
    curve = {"points": sizes.curve_points, "ratio": sizes.curve_ratio}
    cells: list[Cell] = []
    for seed in seeds:
        cells += [
            {"part": "curve", "concept": concept, "seed": seed, "steps": steps, **curve, **both}
            for concept in sizes.curves
            for steps in sizes.steps
        ]
        cells += [
            {"part": "budget", "concept": concept, "seed": seed, **walk, **both}
            for concept in sizes.concepts
        ]

    def measure_cell(cell: Cell) -> list[Row]:
        prompts = PromptSet.load(cell["concept"])
        config = TrainConfig.for_model(bench.model, seed=cell["seed"], gamma=0.0)
        penalised = replace(config, l1=cell["l1"], group=cell["group"], batch_size=sizes.batch_size)
        if cell["part"] == "curve":
            path = PathConfig(points=cell["points"], ratio=cell["ratio"], steps=cell["steps"])
            fitter = SparseFitter(bench.model, prompts, penalised)
            dense = bench.fit("lineas", prompts, config).map
            whole = SparsePoint(0.0, dense, fitter.effect(dense))
            found = list(fitter.path(path))
        else:
            budget = sparsest(
                bench.model,
                prompts,
                penalised,
                kept=cell["kept"],
                supports=cell["supports"],
            )
            whole, found = budget.dense, [budget.chosen]
        rows = [{"map": "untouched", "support": 0.0, "effect": 0.0, **_use(bench, cell, None)}]
        for point in (whole, *found):
            rows.append(
                {
                    "map": "dense" if len(rows) == 1 else "sparse",
                    "gamma": point.gamma,
                    "support": point.support,
                    "effect": point.effect,
                    **_use(bench, cell, point.map),
                }
            )
        return rows

    return bench.rows("sparsity", cells, measure_cell)


def _use(bench: Bench, cell: Cell, smap: SteeringMap | None) -> Row:
    """Presence, perplexity and utility of a map, or of the untouched model if None."""
    model, count = as_language_model(bench.model), cell["completions"]
    maps = [(smap, 1.0)] if smap else []
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(count)]
    texts = bench.texts(
        openings,
        maps,
        range(FIRST_SEED, FIRST_SEED + count),
        max_new_tokens=cell["tokens"],
        batch_size=100,
    )
    with steer(model, maps):
        utility = model.perplexity(PromptSet.load(PLAIN).target)
    return {
        "presence": sum(concept_presence(texts, cell["concept"])) / count,
        "perplexity": perplexity(model, openings, texts),
        "utility": utility,
    }


def budgeted(results: pd.DataFrame) -> pd.DataFrame:
    """A row per concept and seed: support, gamma, and the shares kept of the dense map's scores.

    Presence is counted above that of the untouched model; the share kept is NaN if the dense map
    adds none.
    """
    part = results[results["part"] == "budget"]
    rows = []
    for (concept, seed), own in part.groupby(["concept", "seed"], sort=False):
        maps = own.set_index("map")
        untouched, dense = maps.loc["untouched"], maps.loc["dense"]
        # This is the dense map itself if no point of the path kept enough.
        chosen = maps.loc["sparse"]
        gain = dense["presence"] - untouched["presence"]
        rows.append(
            {
                "concept": concept,
                "seed": seed,
                "support": chosen["support"],
                "gamma": chosen["gamma"],
                "dense_effect": dense["effect"],
                "effect_kept": chosen["effect"] / dense["effect"],
                "presence_untouched": untouched["presence"],
                "presence_dense": dense["presence"],
                "presence_sparse": chosen["presence"],
                "presence_kept": (chosen["presence"] - untouched["presence"]) / gain
                if gain > 0
                else float("nan"),
                "utility_untouched": untouched["utility"],
                "utility_dense": dense["utility"],
                "utility_sparse": chosen["utility"],
            }
        )
    return pd.DataFrame(rows)


def write(results: pd.DataFrame) -> str:
    """The budget by concept, how many concepts meet it, and the curves over gamma."""
    texts = []
    if "budget" in set(results["part"]):
        found = budgeted(results)
        kept = results.loc[results["part"] == "budget", "kept"].iloc[0]
        columns = [name for name in found if name not in ("concept", "seed")]
        rows = [
            [
                row.concept,
                with_spread(row.support, row.support_sd, ".1%"),
                with_spread(row.dense_effect, row.dense_effect_sd, ".0%"),
                with_spread(row.effect_kept, row.effect_kept_sd, ".0%"),
                f"{row.presence_untouched:.0%} / {row.presence_dense:.0%} / "
                f"{row.presence_sparse:.0%}",
                f"{row.utility_untouched:.1f} / {row.utility_dense:.1f} / {row.utility_sparse:.1f}",
            ]
            for row in spread(found, ["concept"], columns).itertuples()
        ]
        head = ["concept", "support", "dense closes", "of it kept", "presence", "utility"]
        means = found.groupby("concept")[["support", "effect_kept"]].mean()
        within = (means["support"] <= MAX_SUPPORT) & (means["effect_kept"] >= kept)
        texts += [
            f"The sparsest map with {kept:.0%} of the dense one's effect. Presence and utility: "
            "untouched / dense / sparse.",
            markdown(rows, head),
            f"{within.sum()} of {len(within)} concepts keep {kept:.0%} of the effect on at most "
            f"{MAX_SUPPORT:.0%} of the neurons.",
        ]
    curve = results[(results["part"] == "curve") & (results["map"] == "sparse")]
    if len(curve):
        values = ["gamma", "support", "effect", "presence", "perplexity", "utility"]
        # Average over seeds by position on the path, since the gammas differ between seeds.
        numbered = curve.assign(point=curve.groupby(["concept", "steps", "seed"]).cumcount() + 1)
        averaged = spread(numbered, ["concept", "steps", "point"], values)
        rows = [
            [
                row.concept,
                f"{row.steps:.0f}",
                f"{row.gamma:.2g}",
                with_spread(row.support, row.support_sd, ".1%"),
                with_spread(row.effect, row.effect_sd, ".0%"),
                with_spread(row.presence, row.presence_sd, ".0%"),
                with_spread(row.perplexity, row.perplexity_sd, ".1f"),
                with_spread(row.utility, row.utility_sd, ".1f"),
            ]
            for row in averaged.itertuples()
        ]
        head = ["concept", "steps", "gamma", "support", "distance closed", "presence"]
        texts += [
            "Penalised maps as gamma falls; steps are those at each gamma.",
            markdown(rows, [*head, "perplexity", "utility"]),
        ]
    return "\n\n".join(texts)


def draw(results: pd.DataFrame, figure: Figure) -> None:
    """Plot effect and presence against support (left) and the budget by concept (right)."""
    left, right = figure.subplots(1, 2)
    curve = results[(results["part"] == "curve") & (results["map"] == "sparse")]
    curves = curve.groupby(["concept", "steps"], sort=False) if len(curve) else ()
    for (concept, steps), own in curves:
        means = own.groupby("gamma")[["support", "effect", "presence"]].mean().sort_index()
        label = f"{concept}, {steps:.0f} steps"
        (line,) = left.plot(means["support"], means["effect"], marker="o", label=label)
        left.plot(means["support"], means["presence"], marker="x", ls=":", color=line.get_color())
    left.set(xlabel="share of neurons changed", ylabel="distance closed; dotted: presence")
    if len(curve):
        left.legend()
    if "budget" in set(results["part"]):
        means = budgeted(results).groupby("concept", sort=False)[["support", "effect_kept"]].mean()
        places = range(len(means))
        right.bar([i - 0.2 for i in places], means["effect_kept"], 0.4, label="effect kept")
        right.bar([i + 0.2 for i in places], means["support"], 0.4, label="neurons changed")
        right.axhline(MAX_SUPPORT, color="gray", lw=0.8, ls="--")
        right.set_xticks(list(places), list(means.index), rotation=30)
        right.set_ylim(top=1.3 * max(1.0, *means["effect_kept"]))
        right.legend(loc="upper center", ncols=2)


TABLE = Table(
    name="sparsity",
    title="Sparse maps: what they keep",
    source="LinEAS, Figures 3 and 9",
    model="smollm2",
    sizes=SparsitySizes,
    measure=measure,
    write=write,
    draw=draw,
)
