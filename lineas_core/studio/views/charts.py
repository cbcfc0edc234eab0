"""Charts and tables for one map, and for the comparison of two: pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from lineas_core.diagnostics.report import HealthReport, SiteDeltas
from lineas_core.errors import MapError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import ImageGrid
from lineas_core.scenes.scores import GridScores
from lineas_core.studio.views.site_labels import site_labels
from lineas_core.system.words import counted

# Exported images may be placed on a light or a dark background, so these colours contrast about
# equally with white and with the dark theme's background (4.2 and 4.3 for the text).
TEXT, LINES = "#6f7d93", "rgba(124,138,160,.22)"
ACCENT, SECOND = "#6366f1", "#d97706"
# (low, high) quantile -> opacity.
BANDS = {(0.05, 0.95): 0.3, (0.25, 0.75): 0.6}
FEW_SITES = 40
# Maximum number of tick labels that fit on a phone.
MAX_TICKS = 9


@dataclass(frozen=True)
class MapComparison:
    """Similarity of two maps.

    Attributes:
        figure: cosine between their shifts and overlap of their support, by site.
        words: a sentence or two with both figures over all common sites.
        cosine: cosine between the shifts of all common sites; None if either is all zeros.
        overlap: number of neurons changed by both maps divided by the number changed by either;
            None if neither map changes any.
    """

    figure: go.Figure
    words: str
    cosine: float | None
    overlap: float | None


def themed(
    figure: go.Figure, title: str, *, height: int = 300, subtitle: str = "", legend: bool = False
) -> go.Figure:
    """Style a figure: a title, a transparent background, colours for light and dark themes."""
    figure.update_layout(
        title={
            "text": title,
            "font": {"size": 14},
            "x": 0,
            "xref": "container",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 4, "t": 8},
            "subtitle": {"text": subtitle, "font": {"size": 12}},
        },
        height=height,
        margin={"l": 52, "r": 14, "t": 64 if legend or subtitle else 40, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": TEXT, "size": 12},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        barmode="overlay",
        hovermode="x unified",
        hoverlabel={"bgcolor": "#1f2937", "font": {"color": "#f9fafb"}},
    )
    figure.update_xaxes(gridcolor=LINES, zeroline=False, automargin=True, fixedrange=True)
    figure.update_yaxes(gridcolor=LINES, zeroline=False, automargin=True, fixedrange=True)
    return figure


def score_curves(grid: ImageGrid, scores: GridScores) -> go.Figure:
    """Plot CLIPScore and IMGScore against strength: mean and standard deviation over prompts."""
    figure = go.Figure()
    for name, rows, colour in (
        ("CLIPScore", scores.clip, ACCENT),
        ("IMGScore", scores.image, SECOND),
    ):
        columns = list(zip(*rows, strict=True))
        spread = [statistics.pstdev(column) for column in columns]
        figure.add_scatter(
            x=grid.strengths,
            y=[statistics.fmean(column) for column in columns],
            error_y={"type": "data", "array": spread, "thickness": 1.2, "width": 4},
            name=name,
            line={"color": colour, "width": 2.5},
        )
    figure.update_xaxes(title="strength")
    figure.update_yaxes(title="cosine")
    return themed(figure, "Scores over strength", legend=True)


def support_by_layer(smap: SteeringMap) -> go.Figure:
    """Plot the share of each site's neurons that the map changes (LinEAS, Figure 4)."""
    support = smap.support_by_site()
    labels = _labels(list(support))
    figure = go.Figure()
    _bars(figure, labels, list(support.values()), ACCENT, "changed", ":.1%")
    most = min(1.0, max(0.05, 1.15 * max(support.values())))
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02 * most], title="neurons")
    title = f"Neurons that the map changes: {smap.support():.1%} of all"
    return _by_site(themed(figure, title), labels)


def scale_and_shift(smap: SteeringMap) -> go.Figure:
    """Plot quantiles of the nonzero entries of w - 1 and of b, by site (LinEAS, Figure 8)."""
    labels = _labels(list(smap.sites))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    scales = [affine.scale - 1 for affine in smap.sites.values()]
    shifts = [affine.shift for affine in smap.sites.values()]
    for row, values, colour in ((1, scales, ACCENT), (2, shifts, SECOND)):
        for (low, high), opacity in BANDS.items():
            ends = list(zip(_quantiles(values, low), _quantiles(values, high), strict=True))
            figure.add_bar(
                x=labels,
                base=[bottom for bottom, _ in ends],
                y=[None if b is None or t is None else t - b for b, t in ends],
                marker={"color": colour, "opacity": opacity, "line": {"width": 0}},
                customdata=ends,
                hovertemplate="%{customdata[0]:.3f} to %{customdata[1]:.3f}",
                name=f"{low * 100:g} to {high * 100:g} %",
                row=row,
                col=1,
            )
        figure.add_scatter(
            x=labels,
            y=_quantiles(values, 0.5),
            mode="markers",
            marker={"color": colour, "size": 6 if len(labels) <= FEW_SITES else 3},
            hovertemplate="%{y:.3f}",
            name="median",
            row=row,
            col=1,
        )
    themed(
        figure,
        "Scale and shift of changed neurons",
        height=420,
        subtitle="Dots: medians. Bars: the middle 50 % and 90 %.",
    )
    figure.update_yaxes(zeroline=True, zerolinecolor=TEXT, zerolinewidth=1)
    figure.update_yaxes(title="scale - 1", row=1)
    figure.update_yaxes(title="shift", row=2)
    return _by_site(figure, labels)


def strongest_neurons(smap: SteeringMap, count: int = 20) -> pd.DataFrame:
    """The neurons with the largest effect, in descending order.

    The effect is `sqrt((w - 1)^2 + b^2)`, the root mean square distance by which the map moves an
    activation with mean 0 and variance 1.

    Args:
        smap: the map.
        count: maximum number of neurons; unchanged neurons are omitted.

    Returns:
        Columns site (the module), neuron (from 0), scale, shift and effect.
    """
    names = list(smap.sites)
    scale, shift = (torch.cat([affine[part] for affine in smap.sites.values()]) for part in (0, 1))
    where = [(name, neuron) for name in names for neuron in range(smap.widths[name])]
    effect = torch.hypot(scale - 1, shift)
    order = effect.argsort(descending=True, stable=True)[: max(count, 0)]
    rows = [
        (*where[i], float(scale[i]), float(shift[i]), float(effect[i]))
        for i in order.tolist()
        if effect[i] > 0
    ]
    return pd.DataFrame(rows, columns=["site", "neuron", "scale", "shift", "effect"])


def deltas_by_layer(health: HealthReport) -> go.Figure:
    """Plot Delta between source and target at each site, with the map off and on.

    Uses held-out prompts if there are any, and the training prompts otherwise.
    """
    deltas = health.held_out or health.training
    whose = "held-out" if health.held_out else "training"
    labels = _labels(list(deltas.before))
    figure = go.Figure()
    for name, values, colour in (
        ("map off", deltas.before, TEXT),
        ("map on", deltas.after, ACCENT),
    ):
        figure.add_scatter(
            x=labels,
            # Omit zeros, which a logarithmic axis cannot show.
            y=[values[site] or None for site in deltas.before],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 8 if len(labels) <= FEW_SITES else 4},
            hovertemplate="%{y:.3g}",
            name=name,
        )
    figure.update_yaxes(type="log", title="Delta", tickformat="~g", **_decades(deltas))
    title = f"Distance to the target, {whose} prompts"
    return _by_site(themed(figure, title, legend=True), labels)


def loss_curve(losses: Sequence[float], supports: Sequence[float] = ()) -> go.Figure:
    """Plot the loss before each step and, with `supports`, the share of neurons changed after."""
    figure = make_subplots(specs=[[{"secondary_y": bool(supports)}]])
    for values, name, colour, form in (
        (losses, "loss", ACCENT, ":.4g"),
        (supports, "neurons changed", SECOND, ":.1%"),
    ):
        if not values:
            continue
        figure.add_scatter(
            x=list(range(1, len(values) + 1)),
            y=list(values),
            mode="lines" if len(values) > 1 else "markers",
            line={"color": colour, "width": 2},
            hovertemplate=f"%{{y{form}}}",
            name=name,
            secondary_y=name != "loss" if supports else None,
        )
    themed(figure, "Loss by step", legend=bool(supports))
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="loss", rangemode="tozero")
    if supports:
        figure.update_yaxes(
            title="neurons changed",
            tickformat=".0%",
            tickmode="linear",
            dtick=0.25,
            range=[0, 1.02],
            showgrid=False,
            secondary_y=True,
        )
    return figure


def compare_maps(a: SteeringMap, b: SteeringMap) -> MapComparison:
    """Compare two maps by the cosine between their shifts and the overlap of their support.

    Raises:
        MapError: they have no site in common, or a common site differs in width.
    """
    names = [site for site in a.sites if site in b.sites]
    wrong = [site for site in names if a.widths[site] != b.widths[site]]
    if not names or wrong:
        what = f"site {wrong[0]!r} in one width" if wrong else "a site in common"
        raise MapError(
            f"The maps {a.info.name!r} and {b.info.name!r} do not have {what}. "
            "Compare maps of the same model."
        )
    cosines = [_cosine(a.sites[site].shift, b.sites[site].shift) for site in names]
    overlaps = [_overlap(_changed(a, [site]), _changed(b, [site])) for site in names]
    cosine = _cosine(*(torch.cat([m.sites[site].shift for site in names]) for m in (a, b)))
    overlap = _overlap(_changed(a, names), _changed(b, names))
    labels = _labels(names)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    _bars(figure, labels, cosines, ACCENT, "cosine", ":.2f", row=1, col=1)
    _bars(figure, labels, overlaps, SECOND, "overlap", ":.1%", row=2, col=1)
    themed(figure, "How alike the two maps are", height=420)
    figure.update_yaxes(title="cosine of shifts", range=[-1.05, 1.05], zeroline=True, row=1)
    figure.update_yaxes(title="shared neurons", tickformat=".0%", range=[0, 1.05], row=2)
    figure.update_yaxes(zerolinecolor=TEXT, row=1)
    return MapComparison(
        _by_site(figure, labels), _in_words(a, b, len(names), cosine, overlap), cosine, overlap
    )


def _in_words(
    a: SteeringMap, b: SteeringMap, common: int, cosine: float | None, overlap: float | None
) -> str:
    sites = (
        f"{counted(common, 'site')} in common, of {len(a.sites)} in one and "
        f"{len(b.sites)} in the other. "
    )
    alone = "" if common == len(a.sites) == len(b.sites) else sites
    push = (
        "One of the maps shifts nothing."
        if cosine is None
        else f"Their shifts have a cosine of {cosine:.2f}."
    )
    shared = (
        "Neither changes a neuron."
        if overlap is None
        else f"Of the neurons that either changes, both change {overlap:.0%}."
    )
    return f"{alone}{push} {shared}"


def _bars(
    figure: go.Figure,
    labels: Sequence[str],
    values: Sequence[float | None],
    colour: str,
    name: str,
    form: str,
    **place: int,
) -> None:
    figure.add_bar(
        x=labels,
        y=values,
        marker={"color": colour, "line": {"width": 0}},
        hovertemplate=f"%{{y{form}}}",
        name=name,
        **place,
    )


def _by_site(figure: go.Figure, labels: Sequence[str]) -> go.Figure:
    """Lay out the x axis for sites, with at most `MAX_TICKS` labels."""
    # Without margins, the bar of a single site would fill the whole width of the figure.
    around = max(0.6, 2.5 - len(labels) / 2)
    figure.update_xaxes(
        type="category",
        categoryorder="array",
        categoryarray=labels,
        range=[-around, len(labels) - 1 + around],
        nticks=MAX_TICKS,
        autotickangles=[0, -45, -90],
        ticklabelstandoff=4,
        showgrid=False,
    )
    return figure.update_layout(bargap=0.25 if len(labels) <= FEW_SITES else 0.05)


def _decades(deltas: SiteDeltas) -> dict[str, Any]:
    """Range and ticks of a logarithmic axis, with at least one tick however close the values."""
    logs = [math.log10(z) for side in (deltas.before, deltas.after) for z in side.values() if z > 0]
    low, high = min(logs, default=0.0) - 0.2, max(logs, default=0.0) + 0.2
    # D2 puts ticks at 1, 2 and 5; from three decades on, their labels would overlap.
    return {"range": [low, high], "dtick": "D2" if high - low < 3 else 1}


def _labels(names: Sequence[str]) -> list[str]:
    """Site labels, escaped: they may come from untrusted files, and Plotly renders HTML in text."""
    return [escape(label, quote=False) for label in site_labels(names)]


def _quantiles(values: Sequence[Tensor], level: float) -> list[float | None]:
    """The quantile of the nonzero values at each site; None where all are zero."""
    changed = [z[z != 0] for z in values]
    return [float(np.quantile(z.numpy(), level)) if len(z) else None for z in changed]


def _cosine(u: Tensor, v: Tensor) -> float | None:
    size = float(u.double().norm() * v.double().norm())
    return float(u.double() @ v.double()) / size if size else None


def _overlap(a: Tensor, b: Tensor) -> float | None:
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else None


def _changed(smap: SteeringMap, names: Sequence[str]) -> Tensor:
    return torch.cat([smap.sites[name].changed for name in names])
