"""How much of a style, and of the picture, each method's map leaves at each strength.

Things that no map was trained on are pictured at every strength from the same noise. CLIPScore
says how much the pictures look like the style, IMGScore how much of the untouched ones is left
(LinEAS, Figure 5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lineas_core.evaluation.tables import strength_table
from lineas_core.grids import score_grid
from lineas_core.methods import fit
from lineas_core.metrics.clip import DEFAULT_SCORER
from lineas_core.models.diffusion import DiffusionModel
from lineas_core.prompts import PromptSet
from lineas_core.subjects import SUBJECTS

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEVELS = 50


@dataclass(frozen=True)
class StyleRow:
    """One cell of the table.

    Attributes:
        style: name of the prompt set.
        method: how the map was learned.
        strength: of the map.
        clip: mean CLIPScore with the set's concept.
        clip_spread: its standard deviation over the prompts.
        image: mean IMGScore.
        image_spread: its standard deviation over the prompts.
        scorer: the CLIP they come from.
        fit_seconds: what learning the map took.
    """

    style: str
    method: str
    strength: float
    clip: float
    clip_spread: float
    image: float
    image_spread: float
    scorer: str
    fit_seconds: float


def evaluate_styles(
    model: DiffusionModel,
    styles: Sequence[str],
    methods: Sequence[str] = ("lineas", "lin-act"),
    *,
    strengths: Sequence[float] = STRENGTHS,
    prompts: Sequence[str] = SUBJECTS,
    seed: int = 0,
    scorer: str = DEFAULT_SCORER,
    on_event: Callable[[str], object] | None = None,
) -> pd.DataFrame:
    """Fit every method on every style with its shipped settings, and measure.

    Args:
        model: an image model.
        styles: names of prompt sets.
        methods: keys of `METHODS`.
        strengths: columns of the table; 0 must be one.
        prompts: to picture.
        seed: of the first prompt's noise; the next ones count on.
        scorer: see `clip_score`.
        on_event: told what is being done.

    Returns:
        A row for every `StyleRow`.
    """
    tell = on_event or (lambda line: None)
    rows = []
    for style in styles:
        trained = PromptSet.load(style)
        for method in methods:
            tell(f"{style}: {method}")
            began = time.perf_counter()
            smap = fit(method, model, trained)
            seconds = time.perf_counter() - began
            grid = model.sweep(
                prompts, [(smap, None)], strengths, seed=range(seed, seed + len(prompts))
            )
            scores = score_grid(grid, trained.concept, scorer=scorer)
            clip, image = np.array(scores.clip), np.array(scores.image)
            rows += [
                StyleRow(
                    style=style,
                    method=method,
                    strength=strength,
                    clip=float(clip[:, column].mean()),
                    clip_spread=float(clip[:, column].std()),
                    image=float(image[:, column].mean()),
                    image_spread=float(image[:, column].std()),
                    scorer=scores.scorer,
                    fit_seconds=seconds,
                )
                for column, strength in enumerate(strengths)
            ]
    return pd.DataFrame(rows)


def style_table(results: pd.DataFrame) -> str:
    """The results as Markdown: CLIPScore / IMGScore, a row per style and method."""
    return strength_table(results, "style", lambda row: f"{row.clip:.2f} / {row.image:.2f}")


def gain_at_equal_image(results: pd.DataFrame, ours: str, theirs: str) -> pd.Series:
    """Style -> CLIPScore of `ours` less that of `theirs`, at equal IMGScore.

    Both scores are taken to change in straight lines between strengths. At each IMGScore that both
    methods reach, the highest CLIPScores that leave at least that much of the picture are compared.
    """
    gains = {}
    for style, group in results.groupby("style", sort=False):
        curves = [
            group[group["method"] == method].sort_values("strength")[["image", "clip"]].to_numpy()
            for method in (ours, theirs)
        ]
        low = max(curve[:, 0].min() for curve in curves)
        high = min(curve[:, 0].max() for curve in curves)
        levels = np.linspace(low, high, LEVELS)
        mine, other = ([_best_clip(curve, level) for level in levels] for curve in curves)
        gains[style] = float(np.mean(np.subtract(mine, other)))
    return pd.Series(gains)


def _best_clip(curve: NDArray[np.float64], level: float) -> float:
    """The highest CLIPScore of a curve of (IMGScore, CLIPScore) where IMGScore is >= level."""
    found = curve[curve[:, 0] >= level, 1].tolist()
    for (image, clip), (next_image, next_clip) in pairwise(curve):
        if (image - level) * (next_image - level) < 0:
            found.append(clip + (next_clip - clip) * (level - image) / (next_image - image))
    return float(max(found))
