"""What the app shows, as HTML: pure functions of values, every text escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from lineas_core.health import HealthReport
from lineas_core.metrics.concepts import concept_presence, concept_words
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


def waiting(strengths: Sequence[float]) -> str:
    """Cards of the same size as the answers, so that nothing jumps when they come."""
    cards = "".join(
        f'<article class="ls-card ls-empty"><h4>{"Steered" if s else "Unsteered"}</h4></article>'
        for s in strengths
    )
    return f'<div class="ls-cards">{cards}</div>'


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60:02d} s"
