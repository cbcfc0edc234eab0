"""Which layers a sparse map steers (LinEAS, Figure 4 bottom and Figure 10).

The penalty on single neurons, l1, makes a map sparse at every site; the penalty on whole sites, lG,
zeroes some sites and leaves others dense. For each pair of the two weights, gamma decreases until
the map changes a given share of all neurons; the table shows how these are distributed over the
layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from lineas_core.evaluation.cells import Bench, Cell, Row, spread
from lineas_core.evaluation.report import Table, fields, markdown, with_spread
from lineas_core.methods.variants.sparsify import PathConfig, SparseFitter, SparsePoint
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of the table.

    Args:
        concepts: shipped prompt sets.
        couples: pairs of penalty weights for neurons and sites, as `l1:lG`.
        support: target share of all neurons that each map changes.
        ratio: of each gamma to the previous one.
        steps: proximal gradient steps per gamma.
        points: maximum number of gammas.
        batch_size: prompts per batch.
    """

    concepts: tuple[str, ...] = ("football",)
    couples: tuple[str, ...] = ("1:0", "0:1", "1:1", "1:0.1")
    support: float = 0.1
    ratio: float = 0.8
    steps: int = 3
    points: int = 25
    batch_size: int = 64


def measure(bench: Bench, sizes: LayerSizes, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure a row per site of each concept's map, for each pair of weights and each seed."""
    shared = {k: v for k, v in fields(sizes).items() if k not in ("concepts", "couples")}
    cells = [
        {"concept": concept, "couple": couple, "seed": seed, **shared}
        for seed in seeds
        for concept in sizes.concepts
        for couple in sizes.couples
    ]

    def measure_cell(cell: Cell) -> list[Row]:
        l1, group = map(float, cell["couple"].split(":"))
        config = replace(
            TrainConfig.for_model(bench.model, seed=cell["seed"], gamma=0.0, l1=l1, group=group),
            batch_size=sizes.batch_size,
        )
        fitter = SparseFitter(bench.model, PromptSet.load(cell["concept"]), config)
        walk = PathConfig(points=sizes.points, ratio=sizes.ratio, steps=sizes.steps)
        near = nearest(fitter, walk, sizes.support)
        return [
            {
                "layer": layer,
                "site": site,
                "site_support": share,
                "total_support": near.support,
                "gamma": near.gamma,
                "effect": near.effect,
            }
            for layer, (site, share) in enumerate(near.map.support_by_site().items())
        ]

    return bench.rows("layers", cells, measure_cell)


def nearest(fitter: SparseFitter, walk: PathConfig, support: float) -> SparsePoint:
    """The point of a path whose support is nearest to `support`, on a logarithmic scale."""
    points: list[SparsePoint] = []
    for point in fitter.path(walk):
        points.append(point)
        if point.support >= support:
            break
    return min(points, key=lambda p: abs(math.log(max(p.support, 1e-9) / support)))


def write(results: pd.DataFrame) -> str:
    """Total support, the effect, the share of empty sites, and the support per fifth of layers."""
    results = results.assign(
        fifth=(5 * results["layer"] // (results["layer"].max() + 1)),
        empty=(results["site_support"] == 0).astype(float),
    )
    by = ["concept", "couple"]
    rows = []
    totals = spread(
        results.groupby([*by, "seed"], sort=False)
        .agg({"total_support": "first", "effect": "first", "empty": "mean"})
        .reset_index(),
        by,
        ["total_support", "effect", "empty"],
    )
    for total in totals.itertuples():
        own = results[(results["concept"] == total.concept) & (results["couple"] == total.couple)]
        fifths = own.groupby("fifth")["site_support"].mean()
        rows.append(
            [
                total.concept,
                total.couple.replace(":", ", "),
                with_spread(total.total_support, total.total_support_sd, ".1%"),
                with_spread(total.effect, total.effect_sd, ".0%"),
                with_spread(total.empty, total.empty_sd, ".0%"),
                *(f"{share:.1%}" for share in fifths),
            ]
        )
    count = int(results["fifth"].max()) + 1
    parts = [f"layers, part {part + 1} of {count}" for part in range(count)]
    head = ["concept", "l1, lG", "support", "distance closed", "empty sites", *parts]
    return markdown(rows, head) + (
        "\n\nThe right columns: share of neurons changed, over each fifth of the sites."
    )


def draw(results: pd.DataFrame, figure: Figure) -> None:
    """Draw a heat map per concept: one row per pair of weights, one column per layer."""
    concepts = list(results["concept"].unique())
    panels = figure.subplots(len(concepts), 1, squeeze=False)[:, 0]
    for axes, concept in zip(panels, concepts, strict=True):
        own = results[results["concept"] == concept]
        grid = own.pivot_table("site_support", "couple", "layer", sort=False)
        image = axes.imshow(grid.to_numpy(), aspect="auto", cmap="viridis", vmin=0)
        axes.set_yticks(range(len(grid)), [f"l1, lG = {c.replace(':', ', ')}" for c in grid.index])
        axes.set_title(concept)
        axes.set_xlabel("layer")
        figure.colorbar(image, ax=axes, label="share of neurons changed")


TABLE = Table(
    name="layers",
    title="Sparse maps: which layers they steer",
    source="LinEAS, Figure 4 (bottom) and Figure 10",
    model="smollm2",
    sizes=LayerSizes,
    measure=measure,
    write=write,
    draw=draw,
)
