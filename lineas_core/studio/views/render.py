"""Render maps, prompt sets and images as HTML: pure functions that escape all text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd
from PIL import Image

from lineas_core.diagnostics.report import HealthReport
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import ImageGrid
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.scenes.scores import GridScores
from lineas_core.studio.components.data_urls import picture_url
from lineas_core.studio.storage.store import MapRow
from lineas_core.system.words import counted

VERDICT_STYLE = {
    "healthy": "good",
    "no effect": "warn",
    "overfitted": "warn",
    "collapsed": "bad",
    "unknown style": "warn",
    "already so": "warn",
}
VERDICT_TITLE = {
    "unknown style": "This model does not know that style.",
    "already so": "This model draws so already.",
}


def health(report: HealthReport | None) -> str:
    """Render the verdict, the advice and the figures behind them; "" without a report."""
    if report is None:
        return ""
    figures = [("training distance left", f"{report.training.ratio:.0%}")]
    if report.held_out:
        figures.append(("on held-out prompts", f"{report.held_out.ratio:.0%}"))
    if report.style_gain is not None:
        figures.append(("style gained (CLIPScore)", f"{report.style_gain:+.2f}"))
    if report.surprise:
        figures.append(
            ("perplexity of target text", f"{report.surprise[0]:.0f} → {report.surprise[1]:.0f}")
        )
    if report.copies is not None:
        figures.append(("completions with copies of the prompts", f"{report.copies:.0%}"))
    figures += [
        ("neurons changed", f"{report.support:.0%}"),
        ("largest scale change", f"{report.largest_gain:.2f}"),
        ("largest shift", f"{report.largest_shift:.2f}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    return (
        f'<div class="ls-health {VERDICT_STYLE[report.verdict]}">'
        f"<strong>{VERDICT_TITLE.get(report.verdict, report.verdict.capitalize())}</strong> "
        f"{escape(report.advice)}"
        f"<dl>{cells}</dl></div>"
    )


def prompt_set(prompts: PromptSet, shown: int = 3) -> str:
    """Render the first `shown` source and target prompts."""
    sides = "".join(
        f"<div><h4>{title} <small>{counted(len(lines), 'prompt')}</small></h4><ul>"
        + "".join(f"<li>{escape(line)}</li>" for line in lines[:shown])
        + "</ul></div>"
        for title, lines in (("From", prompts.source), ("To", prompts.target))
    )
    return f'<div class="ls-sides">{sides}</div>'


def neurons(strongest: pd.DataFrame) -> str:
    """Render the neurons that a map changes most as a table."""
    head = "".join(f"<th scope='col'>{escape(str(name))}</th>" for name in strongest.columns)
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{value:.3f}</td>"
            if isinstance(value, float)
            else f"<td>{_breakable(str(value))}</td>"
            for value in row
        )
        + "</tr>"
        for row in strongest.itertuples(index=False)
    )
    return (
        '<div class="ls-neurons"><h4>Strongest neurons</h4><table><thead><tr>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _breakable(name: str) -> str:
    """Escape a site's name, and allow line breaks after its dots and underscores only."""
    return re.sub("([._])", r"\1<wbr>", escape(name))


def origin(row: MapRow, smap: SteeringMap) -> str:
    """Render the provenance of a map: model, settings, prompts."""
    made = {
        "model": row.model,
        "method": row.method,
        "sites": f"{len(smap.sites)}, {sum(smap.widths.values())} neurons",
        "acts": f"within bounds at {counted(len(smap.bounds), 'site')}" if smap.bounds else "",
        "made": smap.info.created,
        "library": smap.info.library_version,
        "prompts": smap.info.prompt_hash,
        "digest": row.digest,
        **{str(name): value for name, value in smap.info.config.items()},
    }
    cells = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in made.items()
        if value not in ("", None)
    )
    prompts = prompt_set(row.prompts, shown=len(row.prompts.source)) if row.prompts else ""
    return (
        f'<details class="ls-origin" open><summary>Where it comes from</summary><table>{cells}'
        f"</table></details><details class='ls-origin'><summary>Its prompts</summary>{prompts}"
        "</details>"
    )


def pictures(
    prompts: Sequence[str],
    images: Sequence[Image.Image],
    clip: Mapping[str, Sequence[float]],
    kept: Sequence[float | None],
    label: str,
) -> str:
    """Render one card per prompt, with its steered image and scores.

    Args:
        prompts: captions of the images.
        images: steered images.
        clip: concept -> CLIPScore of each image.
        kept: IMGScore of each image; None where it could not be scored.
        label: description of the maps that are on.
    """
    cards = "".join(
        f'<figure class="ls-picture" data-mix="{escape(label, quote=True)}">'
        f"{image_tag(image, f'{prompt}, {label}')}<figcaption>{escape(prompt)}"
        f"{score_line({name: scores[n] for name, scores in clip.items()}, kept[n])}</figcaption>"
        "</figure>"
        for n, (prompt, image) in enumerate(zip(prompts, images, strict=True))
    )
    return f'<div class="ls-pictures">{cards}</div>'


def picture_grid(grid: ImageGrid, scores: GridScores | None, swept: str) -> str:
    """Render a table with one row per prompt, one column per strength, and scores per image.

    Args:
        grid: the images.
        scores: None if the images could not be scored.
        swept: title of the map whose strength varies across the columns.
    """
    head = "".join(f"<th scope='col'>{strength:g}</th>" for strength in grid.strengths)
    rows = []
    for row, (prompt, images) in enumerate(zip(grid.prompts, grid.images, strict=True)):
        cells = "".join(
            f"<td>{image_tag(image, f'{prompt}, strength {strength:g}')}"
            f"{_cell(scores, row, n)}</td>"
            for n, (image, strength) in enumerate(zip(images, grid.strengths, strict=True))
        )
        rows.append(f"<tr><th scope='row'>{escape(prompt)}</th>{cells}</tr>")
    hint = (
        f"CLIP: how much it looks like “{escape(scores.style)}”. IMG: how much of the untouched "
        f"picture is left. Both are cosines by {escape(scores.scorer)}."
        if scores
        else "Not scored: no CLIP could be loaded, or the map does not say what it is about."
    )
    return (
        '<div class="ls-grid" tabindex="0" role="region" aria-label="Pictures by strength"><table>'
        f'<thead><tr><th scope="col">{escape(swept)}</th>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="ls-hint">{hint}</p>'
    )


def _cell(scores: GridScores | None, row: int, column: int) -> str:
    if scores is None:
        return score_line({}, None)
    return score_line({scores.style: scores.clip[row][column]}, scores.image[row][column])


def score_line(clip: Mapping[str, float], image: float | None) -> str:
    """Render the CLIPScore for each concept, then the IMGScore."""
    items = [
        f'<span title="CLIPScore with “{escape(name, quote=True)}”">'
        f"{escape(name) if len(clip) > 1 else 'CLIP'} <b>{score:.2f}</b></span>"
        for name, score in clip.items()
    ] or ['<span title="No map that is on says what it is about">CLIP <b>not scored</b></span>']
    kept = "not scored" if image is None else f"{image:.2f}"
    items.append(f'<span title="IMGScore with the untouched picture">IMG <b>{kept}</b></span>')
    return f'<small class="ls-scores">{"".join(items)}</small>'


def image_tag(image: Image.Image, text: str, max_pixels: int = 1024) -> str:
    """Render the image, at most `max_pixels` pixels wide and high; a click enlarges it."""
    said = escape(text, quote=True)
    return (
        f'<button type="button" class="ls-enlarge" aria-label="Enlarge: {said}">'
        f'<img src="{picture_url(image, max_pixels)}" alt="{said}"></button>'
    )
