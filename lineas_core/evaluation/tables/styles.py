"""Style strength and content preservation of each method's map at each strength.

Subjects that no map was trained on are pictured at every strength from the same noise. CLIPScore
measures how much the pictures look like the style, IMGScore how much of the untouched pictures is
preserved (LinEAS, Figure 5).

Removal learns to leave a concept out of pictures whose prompts name it, and injection applies the
inverse of the same map to prompts that do not. Both are pictured from held-out prompts; CLIPScore
with the concept's name should fall under removal and rise under injection. The embedded model only
draws single objects in several looks, so the concepts removed from its pictures are looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lineas_core.errors import MapError
from lineas_core.evaluation.cells import Bench, Cell, Row, check_known, spread
from lineas_core.evaluation.report import Table, markdown, strength_table, with_spread
from lineas_core.methods.names import TITLES
from lineas_core.metrics.clip import scorer_for
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.load import as_image_model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.scenes.grid import score_grid
from lineas_core.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEVELS = 50
OURS = "lineas"
REMOVES = "remove-"
BLOCKS = {"style": "Styles", "removal": "Concept removal", "injection": "Concept injection"}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the table.

    Args:
        styles: prompt sets whose concept is a style.
        removals: prompt sets whose concept is removed; see `removal_set`.
        methods: keys of `TITLES`.
        pictures: per map and strength, each from its own noise.
    """

    styles: tuple[str, ...] = (
        "emoji-pixel-art",
        "emoji-watercolor",
        "emoji-cyberpunk",
        "emoji-ukiyo-e",
        "emoji-pencil-sketch",
        "emoji-retro-3d",
    )
    removals: tuple[str, ...] = ("emoji-pixel-art", "emoji-cyberpunk")
    methods: tuple[str, ...] = ("lineas", "lin-act", "iti-c")
    pictures: int = 32


def removal_set(name: str) -> PromptSet:
    """Load a set so that the concept is in its source and not in its target.

    Shipped sets named `remove-...` already are; for any other set, such as a style's, the sides
    are swapped.
    """
    prompts = PromptSet.load(name)
    if prompts.name.startswith(REMOVES):
        return prompts
    return replace(prompts, source=prompts.target, target=prompts.source)


def measure(bench: Bench, sizes: Sizes, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure a row per block, prompt set, method, seed (of training and noise) and strength.

    A map that cannot be inverted has no rows for injection.

    Raises:
        ConfigError: there is no such method.
    """
    check_known("methods", sizes.methods, TITLES)
    model = as_image_model(bench.model)
    scorer = scorer_for(model.size)
    measured = [("style", name) for name in sizes.styles]
    measured += [(way, name) for way in ("removal", "injection") for name in sizes.removals]
    cells = [
        {
            "block": block,
            "set": name,
            "method": method,
            "seed": seed,
            "pictures": sizes.pictures,
            "scorer": scorer,
        }
        for block, name in measured
        for method in sizes.methods
        for seed in seeds
    ]
    return bench.rows("styles", cells, lambda cell: _measure_cell(bench, model, cell))


def _measure_cell(bench: Bench, model: DiffusionModel, cell: Cell) -> list[Row]:
    block, count, seed = cell["block"], cell["pictures"], cell["seed"]
    prompts = PromptSet.load(cell["set"]) if block == "style" else removal_set(cell["set"])
    config = TrainConfig.for_model(model, cell["method"], seed=seed)
    fitted = bench.fit(cell["method"], prompts, config)
    _, held_out = prompts.split(config.holdout, config.seed)
    pictured: Sequence[str] = SUBJECTS
    smap = fitted.map
    if block == "removal":
        pictured = held_out.source
    elif block == "injection":
        pictured = held_out.target
        try:
            smap = smap.inverse()
        except MapError as error:
            bench.tell(str(error))
            return []
    lines = [pictured[i % len(pictured)] for i in range(count)]
    noise = range(seed * count, (seed + 1) * count)
    grid = model.sweep(lines, [(smap, None)], STRENGTHS, seed=noise)
    scores = score_grid(grid, prompts.concept, scorer=cell["scorer"], device=str(model.device))
    clip, image = np.array(scores.clip), np.array(scores.image)
    return [
        {
            "strength": strength,
            "clip": float(clip[:, column].mean()),
            "clip_spread": float(clip[:, column].std()),
            "image": float(image[:, column].mean()),
            "image_spread": float(image[:, column].std()),
            "fit_seconds": fitted.seconds,
        }
        for column, strength in enumerate(STRENGTHS)
    ]


def write(results: pd.DataFrame) -> str:
    """CLIPScore / IMGScore of each block, and the styles' gain at equal IMGScore."""

    def cell(row: Any) -> str:
        return f"{with_spread(row.clip, row.clip_sd)} / {with_spread(row.image, row.image_sd)}"

    parts = [
        "CLIPScore with the concept's name / IMGScore with the untouched picture, by "
        f"{', '.join(results['scorer'].unique())}.",
        "",
    ]
    for block, means in _means(results).groupby("block", sort=False):
        parts += [f"## {BLOCKS[str(block)]}", "", strength_table(means, "set", cell), ""]
        if block == "style":
            parts += _gains(means)
    if {"removal", "injection"} & set(results["block"]):
        parts.append(
            "Injection is by the inverse of the map that removes; a map that has none is left out. "
            f"Sets that are not named {REMOVES}... were learned with their sides exchanged."
        )
    return "\n".join(parts).rstrip()


def _gains(means: pd.DataFrame) -> list[str]:
    methods = list(means["method"].unique())
    others = [method for method in methods if method != OURS]
    if OURS not in methods or not others:
        return []
    gains = {method: gain_at_equal_image(means, OURS, method) for method in others}
    rows = [
        [name, *(f"{gains[method][name]:+.3f}" for method in others)]
        for name in means["set"].unique()
    ]
    rows.append(["mean", *(f"{gains[method].mean():+.3f}" for method in others)])
    table = markdown(rows, ["set", *(f"over {method}" for method in others)])
    return [f"CLIPScore of {OURS} less that of the others at equal IMGScore:", "", table, ""]


def draw(results: pd.DataFrame, figure: Figure) -> None:
    """Plot CLIPScore against IMGScore along the strengths, as means over sets, for each block."""
    means = _means(results).groupby(["block", "method", "strength"], sort=False)
    curves = means[["clip", "image"]].mean().reset_index()
    blocks = list(curves["block"].unique())
    axes = figure.subplots(1, len(blocks), squeeze=False)[0]
    for axis, block in zip(axes, blocks, strict=True):
        for method, line in curves[curves["block"] == block].groupby("method", sort=False):
            axis.plot(line["image"], line["clip"], marker="o", label=method)
        axis.set_title(BLOCKS[block])
        axis.set_xlabel("IMGScore")
        # Puts the untouched model (IMGScore 1) on the left and full strength on the right.
        axis.invert_xaxis()
    axes[0].set_ylabel("CLIPScore")
    axes[0].legend()


def gain_at_equal_image(results: pd.DataFrame, ours: str, theirs: str) -> pd.Series:
    """Set -> CLIPScore of `ours` minus that of `theirs`, at equal IMGScore.

    Both scores are interpolated linearly between strengths. At each IMGScore that both methods
    reach, their highest CLIPScores with at least that IMGScore are compared.
    """
    gains = {}
    for name, group in results.groupby("set", sort=False):
        curves = [
            group[group["method"] == method].sort_values("strength")[["image", "clip"]].to_numpy()
            for method in (ours, theirs)
        ]
        low = max(curve[:, 0].min() for curve in curves)
        high = min(curve[:, 0].max() for curve in curves)
        levels = np.linspace(low, high, LEVELS)
        mine, other = ([_best_clip(curve, level) for level in levels] for curve in curves)
        gains[name] = float(np.mean(np.subtract(mine, other)))
    return pd.Series(gains)


def _best_clip(curve: NDArray[np.float64], level: float) -> float:
    """The highest CLIPScore of a curve of (IMGScore, CLIPScore) where IMGScore is >= level."""
    found = curve[curve[:, 0] >= level, 1].tolist()
    for (image, clip), (next_image, next_clip) in pairwise(curve):
        if (image - level) * (next_image - level) < 0:
            found.append(clip + (next_clip - clip) * (level - image) / (next_image - image))
    return float(max(found))


def _means(results: pd.DataFrame) -> pd.DataFrame:
    by = ["block", "set", "method", "strength"]
    return spread(results, by, ["clip", "image", "fit_seconds"])


TABLE = Table(
    name="styles",
    title="Styles, and concepts taken out and put in, at each strength",
    source="LinEAS, Figure 5",
    model="emoji-onestep",
    sizes=Sizes,
    measure=measure,
    write=write,
    draw=draw,
)
