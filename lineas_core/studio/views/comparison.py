"""Render a comparison of two maps as HTML: pure functions that escape all text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lineas_core.methods.names import TITLES
from lineas_core.studio.answers.pictures import Look
from lineas_core.studio.answers.readouts import Readout
from lineas_core.studio.storage.store import JobRow, MapRow
from lineas_core.studio.views.completions import pair
from lineas_core.studio.views.job_cards import progress as job_progress
from lineas_core.studio.views.render import image_tag, score_line


def progress(jobs: Sequence[tuple[JobRow, int, float | None]]) -> str:
    """Render the progress of jobs, given as (job, position in the queue, seconds left)."""
    lines = "".join(
        f"<div><h4>{escape(TITLES[job.method])}</h4>"
        f"{job_progress(job, waiting, left, 'Its map is in the library.')}</div>"
        for job, waiting, left in jobs
    )
    return f'<div class="ls-both">{lines}</div>' if lines else ""


def figures(rows: Sequence[MapRow], seconds: Sequence[float | None], words: str) -> str:
    """Render a table of the maps' health, speed and size, and a sentence on their similarity.

    Args:
        rows: maps A and B.
        seconds: training time of each map; None where it is unknown.
        words: a description of their similarity.
    """
    columns = [figures_of(row, took) for row, took in zip(rows, seconds, strict=True)]
    head = "".join(
        f'<th scope="col">{letter}: {escape(row.title)}</th>'
        for letter, row in zip("AB", rows, strict=True)
    )
    lines = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{escape(column[name] or 'not known')}</td>" for column in columns)
        + "</tr>"
        for name in columns[0]
        if any(column[name] for column in columns)
    )
    return (
        '<div class="ls-versus" tabindex="0" role="region" aria-label="The two maps in figures">'
        f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
        f'<p class="ls-hint">{escape(words)}</p>'
    )


def too_few() -> str:
    """Render the hint shown when there are no two maps of the same model."""
    return (
        '<p class="ls-hint">There is no other map of this model. Train two methods on the same '
        "prompts, above.</p>"
    )


def pictures(titles: Sequence[str], looks: Sequence[Look]) -> str:
    """Render a table with one row per prompt, columns unsteered, A and B, and scores per image."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    rows = []
    for n, prompt in enumerate(looks[0].prompts):
        cells = "".join(
            f"<td>{image_tag(look.after[n], f'{prompt}, {title}')}"
            f"{score_line({text: clip[n] for text, clip in look.clip.items()}, look.kept[n])}</td>"
            for title, look in zip(titles, looks, strict=True)
        )
        rows.append(f'<tr><th scope="row">{escape(prompt)}</th>{cells}</tr>')
    scorer = looks[0].scorer
    concepts = " and ".join(f"“{text}”" for text in looks[0].clip)
    hint = (
        f"CLIP: how much it looks like {concepts}. IMG: how much of the untouched picture is left. "
        f"Both are cosines by {scorer}."
        if concepts
        else f"IMG: how much of the untouched picture is left, by {scorer}."
    )
    return (
        '<div class="ls-grid ls-beside" tabindex="0" role="region" '
        'aria-label="Pictures side by side"><table><thead><tr><td></td>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="ls-hint">{escape(hint)}</p>'
    )


def texts(
    prompt: str,
    titles: Sequence[str],
    found: Sequence[str],
    concepts: Sequence[str],
    readouts: Sequence[Readout],
) -> str:
    """Render a card each for unsteered, A and B; no readouts means generation is in progress."""
    return pair(prompt, titles, found, concepts, writing=not readouts, readouts=readouts)


def figures_of(row: MapRow, seconds: float | None) -> dict[str, str]:
    """Metric name -> formatted value; "" where it is unknown."""
    health = row.health
    held_out = health.held_out if health else None
    surprise = health.surprise if health else None
    return {
        "Method": TITLES.get(row.method, row.method),
        "Verdict": health.verdict.capitalize() if health else "",
        "Training distance left": f"{health.training.ratio:.0%}" if health else "",
        "On held-out prompts": f"{held_out.ratio:.0%}" if held_out else "",
        "Perplexity of target text": f"{surprise[0]:.0f} → {surprise[1]:.0f}" if surprise else "",
        "Completions with copies": _share(health.copies if health else None),
        "Neurons changed": f"{row.support:.0%}",
        "Recommended strength": "" if row.recommended is None else f"{row.recommended:.2f}",
        "Seconds to learn": "" if seconds is None else f"{seconds:.1f}",
    }


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
