"""What the app shows, as HTML: pure functions of values, every text escaped."""

from __future__ import annotations

import base64
import io
import re
import statistics
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from PIL import Image

from lineas_core.grids import GridScores
from lineas_core.health import HealthReport
from lineas_core.metrics.concepts import concept_presence, concept_words
from lineas_core.models.diffusion import ImageGrid
from lineas_core.models.language import TextGrid
from lineas_core.prompts import PromptSet
from lineas_core.studio.jobs import Job

VERDICT_STYLE = {
    "healthy": "good",
    "no effect": "warn",
    "overfitted": "warn",
    "collapsed": "bad",
}
STATUS_TEXT = {
    "queued": "Waiting for its turn",
    "running": "Loading the model; the first time takes about half a minute",
    "checking": "Checking the map on prompts it has not seen",
    "done": "Trained",
    "failed": "Training stopped",
    "cancelled": "Cancelled",
}


def progress(job: Job | None) -> str:
    """One line and a bar: where a job is."""
    if job is None:
        return '<div class="ls-hint">Choose a prompt set and train: it takes about a minute.</div>'
    text, share = STATUS_TEXT[job.status], 0.0
    if event := job.event:
        share = event.step / event.steps
        if job.status == "running":
            text = (
                f"Step {event.step} of {event.steps} · {_duration(event.seconds_left)} left · "
                f"loss {event.loss:.4f}"
            )
        elif job.finished:
            text += f" · {event.step} steps in {_duration(event.seconds)} · loss {event.loss:.4f}"
    if job.message:
        text += f". {job.message}"
    elif job.status == "cancelled" and job.map_id:
        text += ". The map reached so far is kept."
    return (
        f'<div class="ls-progress" data-status="{job.status}" role="status">'
        f'<div class="ls-track" role="progressbar" aria-label="training progress" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share * 100:.0f}">'
        f'<div class="ls-fill" style="width: {share:.1%}"></div></div>'
        f"<div>{escape(text)}</div></div>"
    )


def health(report: HealthReport | None) -> str:
    """The verdict in words, and the figures behind it."""
    if report is None:
        return ""
    figures = [("training distance left", f"{report.training.ratio:.0%}")]
    if report.held_out:
        figures.append(("on held-out prompts", f"{report.held_out.ratio:.0%}"))
    if report.surprise:
        figures.append(
            ("perplexity of target text", f"{report.surprise[0]:.0f} → {report.surprise[1]:.0f}")
        )
    figures += [
        ("neurons changed", f"{report.support:.0%}"),
        ("largest scale change", f"{report.largest_gain:.2f}"),
        ("largest shift", f"{report.largest_shift:.2f}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    return (
        f'<div class="ls-health {VERDICT_STYLE[report.verdict]}">'
        f"<strong>{report.verdict.capitalize()}</strong> {escape(report.advice)}"
        f"<dl>{cells}</dl></div>"
    )


def prompt_set(prompts: PromptSet, shown: int = 3) -> str:
    """A few prompts of either side."""
    sides = "".join(
        f"<div><h4>{title} <small>{len(lines)} prompts</small></h4><ul>"
        + "".join(f"<li>{escape(line)}</li>" for line in lines[:shown])
        + "</ul></div>"
        for title, lines in (("From", prompts.source), ("To", prompts.target))
    )
    return f'<div class="ls-sides">{sides}</div>'


def completions(grid: TextGrid, concept: str) -> str:
    """One card a strength, side by side: the prompts, and how they go on."""
    cards = []
    for strength, texts in zip(grid.strengths, zip(*grid.texts, strict=True), strict=True):
        title = "Unsteered" if strength == 0 else f"Strength {strength:g}"
        if concept in concept_words():
            share = f"{escape(concept)} in {sum(concept_presence(texts, concept))} of {len(texts)}"
            title += f" <small>{share}</small>"
        samples = "".join(
            f'<p><b>{escape(start)}</b><span class="ls-text">{mark(text, concept)}</span></p>'
            for start, text in zip(grid.prompts, texts, strict=True)
        )
        cards.append(
            f'<article class="ls-card" data-strength="{strength:g}"><h4>{title}</h4>{samples}'
            "</article>"
        )
    return f'<div class="ls-cards">{"".join(cards)}</div>'


def mark(text: str, concept: str) -> str:
    """The text, escaped, with the concept's words marked."""
    words = concept_words().get(concept)
    if not words:
        return escape(text)
    pieces = re.split(rf"\b({'|'.join(map(re.escape, words))})\b", text, flags=re.IGNORECASE)
    return "".join(
        f"<mark>{escape(piece)}</mark>" if i % 2 else escape(piece)
        for i, piece in enumerate(pieces)
    )


def pictures(grid: ImageGrid, scores: GridScores) -> str:
    """One card a prompt: the picture at the last strength, and its scores."""
    strength = grid.strengths[-1]
    cards = "".join(
        f'<figure class="ls-picture" data-strength="{strength:g}">{_image(images[-1], prompt)}'
        f"<figcaption>{escape(prompt)}{_scores(clip[-1], img[-1])}</figcaption></figure>"
        for prompt, images, clip, img in zip(
            grid.prompts, grid.images, scores.clip, scores.image, strict=True
        )
    )
    return f'<div class="ls-pictures">{cards}</div>'


def picture_grid(grid: ImageGrid, scores: GridScores) -> str:
    """A table: prompts down, strengths across, scores under each picture."""
    head = "".join(f"<th scope='col'>{strength:g}</th>" for strength in grid.strengths)
    rows = []
    for row, (prompt, images) in enumerate(zip(grid.prompts, grid.images, strict=True)):
        cells = "".join(
            f"<td>{_image(image, f'{prompt}, strength {strength:g}')}"
            f"{_scores(scores.clip[row][column], scores.image[row][column])}</td>"
            for column, (image, strength) in enumerate(zip(images, grid.strengths, strict=True))
        )
        rows.append(f"<tr><th scope='row'>{escape(prompt)}</th>{cells}</tr>")
    return (
        f'<div class="ls-grid"><table><thead><tr><th scope="col">strength</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="ls-hint">CLIP: how much it looks like “{escape(scores.style)}”. IMG: how much '
        f"of strength 0 is left. Both are cosines by {escape(scores.scorer)}.</p>"
    )


def score_curves(grid: ImageGrid, scores: GridScores) -> go.Figure:
    """Mean CLIPScore and IMGScore over the prompts against strength, with standard deviations."""
    figure = go.Figure()
    named = (("CLIPScore", scores.clip, "#6366f1"), ("IMGScore", scores.image, "#f59e0b"))
    for name, rows, colour in named:
        columns = list(zip(*rows, strict=True))
        spread = [statistics.pstdev(column) for column in columns]
        figure.add_scatter(
            x=grid.strengths,
            y=[statistics.fmean(column) for column in columns],
            error_y={"type": "data", "array": spread, "thickness": 1.2, "width": 4},
            name=name,
            line={"color": colour, "width": 2.5},
        )
    # Transparent, in a grey that is legible on the light theme and on the dark one.
    figure.update_layout(
        height=260,
        margin={"l": 44, "r": 12, "t": 28, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#7c8aa0"},
        legend={"orientation": "h", "y": 1.15, "x": 0},
        xaxis={"title": "strength", "gridcolor": "rgba(124,138,160,.2)", "zeroline": False},
        yaxis={"title": "cosine", "gridcolor": "rgba(124,138,160,.2)", "zeroline": False},
    )
    return figure


def waiting(strengths: Sequence[float]) -> str:
    """Cards of the same size as the answers, so that nothing jumps when they come."""
    cards = "".join(
        f'<article class="ls-card ls-empty"><h4>{"Steered" if s else "Unsteered"}</h4></article>'
        for s in strengths
    )
    return f'<div class="ls-cards">{cards}</div>'


def _scores(clip: float, image: float) -> str:
    return (
        f'<small class="ls-scores"><span title="CLIPScore">CLIP <b>{clip:.2f}</b></span> '
        f'<span title="IMGScore">IMG <b>{image:.2f}</b></span></small>'
    )


def _image(image: Image.Image, text: str, most: int = 256) -> str:
    shown = image.convert("RGB")
    shown.thumbnail((most, most))
    file = io.BytesIO()
    shown.save(file, "WEBP", lossless=shown.width <= 128, quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(text, quote=True)}">'


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60:02d} s"
