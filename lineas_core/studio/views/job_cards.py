"""Render training jobs as HTML: pure functions that escape all text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import Image

from lineas_core.methods.names import STEPWISE, TITLES
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.jobs.frames import Frame
from lineas_core.studio.storage.store import JobRow
from lineas_core.studio.views import render
from lineas_core.studio.views.render import image_tag

PHASE_TEXT = {
    "": "Starting",
    "loading": "Loading the model; the first time takes about half a minute",
    "training": "Training",
    "checking": "Checking the map on prompts it has not seen",
}
STATUS_TEXT = {
    "queued": "Waiting for its turn",
    "interrupted": "Interrupted; it goes on by itself",
    "done": "Trained",
    "failed": "Training stopped",
    "cancelled": "Cancelled",
}
# What a method is, where its title does not say it.
SAID = {
    "lineas+": "LinEAS+ makes the target prompts likely, word by word, for text alone; with a "
    "Distance above 0, LinEAS's own loss counts too.",
}


def progress(
    job: JobRow | None,
    waiting: int = 0,
    left: float | None = None,
    done: str = "It is on the rack now: move its slider.",
) -> str:
    """Render the progress of a job as a bar and a line of text.

    Args:
        job: None before the first job.
        waiting: position in the queue; 0 once the job runs.
        left: estimated seconds until it ends; None if unknown.
        done: sentence about the map, shown when the job succeeded.
    """
    if job is None:
        return '<div class="ls-hint">Choose prompts and train: it takes about a minute.</div>'
    share = job.step / job.steps if job.steps else 0.0
    text = STATUS_TEXT.get(job.status) or PHASE_TEXT[job.phase]
    if job.status == "queued" and waiting:
        text += f" · number {waiting} in the queue"
        text += f" · about {_duration(left)} until it is done" if left is not None else ""
    elif job.status == "running" and job.phase == "training" and not job.stepwise:
        text = f"Fitting by {TITLES[job.method]}"
        text += f" · {_duration(left)} left" if left is not None else ""
    elif job.status == "running" and job.phase == "training" and job.step:
        text = f"Step {job.step} of {job.steps}"
        text += f" · {_duration(left)} left" if left is not None else ""
        text += f" · loss {job.loss:.4f}" if job.loss is not None else ""
    elif job.status == "cancelled" and job.step and job.stepwise:
        text = f"Stopped at step {job.step} of {job.steps}"
    elif job.finished and job.step:
        text += f" · {job.step} steps" if job.stepwise else f" by {TITLES[job.method]}"
        text += f" in {_duration(job.seconds)}"
        text += f" · loss {job.loss:.4f}" if job.loss is not None else ""
    if job.message:
        text += f". {without_paths(job.message)}"
    elif job.status == "cancelled" and job.map_id:
        text += ". The map reached so far is kept. It is unfinished, and off: Keep it on uses it."
    if job.status == "done":
        text += f"{'' if job.message.endswith('.') else '.'} {done}"
    return (
        f'<div class="ls-progress" data-status="{job.status}" data-job="{job.id}" '
        f'data-kind="{job.prompts.modality}" role="status">'
        f'<div class="ls-track" role="progressbar" aria-label="training progress" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share * 100:.0f}">'
        f'<div class="ls-fill" style="width: {share:.1%}"></div></div>'
        f"<div>{escape(text)}</div></div>"
    )


def live(job: JobRow | None, frame: Frame | None, *, staged: bool = False) -> str:
    """Render the latest preview beside the unsteered model's output, and the training curves.

    Args:
        job: None before the first job.
        frame: the job's latest preview frame.
        staged: the map is shown on the stage already, so render only the curves.
    """
    if job is None:
        return (
            '<div class="ls-live ls-empty"><p class="ls-hint">While a map trains, you see here '
            "what it does to one prompt, every few seconds.</p></div>"
        )
    if frame is None:
        when = "after the first step" if job.stepwise else "when it is fitted"
        sides = f'<p class="ls-hint">The first look comes {when}.</p>'
    else:
        sides = "".join(
            f"<figure><figcaption>{title}</figcaption>{_sample(sample, title)}</figure>"
            for title, sample in (
                ("untouched", frame.unsteered),
                (f"step {frame.step}" if job.stepwise else TITLES[job.method], frame.steered),
            )
        )
    curves = _spark("loss", job.losses) + _spark("neurons changed", job.supports, share=True)
    if staged:
        return f'<div class="ls-live"><div class="ls-sparks">{curves}</div></div>' if curves else ""
    return (
        f'<div class="ls-live" data-step="{frame.step if frame else 0}">'
        f'<p class="ls-caption">{escape(job.preview_prompt)}</p><div class="ls-frames">{sides}'
        f'</div><div class="ls-sparks">{curves}</div></div>'
    )


def health(job: JobRow | None) -> str:
    """Render the verdict on a job's map; a map of a cancelled job is labelled unfinished."""
    if job is None or (job.status == "cancelled" and not job.map_id):
        return ""
    if job.status == "cancelled":
        return (
            '<div class="ls-health warn"><strong>Unfinished</strong> '
            f"It was stopped at step {job.step} of {job.steps}, so nothing is said of what "
            "training makes of it. Try again trains it from the start.</div>"
        )
    return render.health(job.health)


def settings(method: str) -> str:
    """Render a hint about which settings a method uses."""
    if method not in STEPWISE:
        said = (
            f"{TITLES[method]} is fitted in one go, in seconds: it has no steps, rate or sparsity."
        )
    else:
        said = "What stands in grey suits the model, and is taken where a field is empty."
    if method in SAID:
        said = f"{SAID[method]} {said}"
    return f'<p class="ls-hint">{escape(said)}</p>'


def recent(jobs: Sequence[JobRow], shown: str) -> str:
    """Render links to the newest jobs; `shown` is the id of the current one."""
    if not jobs:
        return ""
    items = "".join(
        f'<li{" aria-current=true" if job.id == shown else ""}><a href="?job={job.id}">'
        f"{escape(job.title or job.prompts.name)}</a> <small>{job.status}"
        f"{', tried again' if job.parent else ''}</small></li>"
        for job in jobs
    )
    return f'<nav class="ls-recent" aria-label="Your jobs"><h4>Your jobs</h4><ul>{items}</ul></nav>'


def _sample(sample: str | Image.Image, title: str) -> str:
    if isinstance(sample, str):
        return f'<p class="ls-text">{escape(sample)}</p>'
    return image_tag(sample, title)


def _spark(title: str, values: Sequence[float], *, share: bool = False) -> str:
    """Render a sparkline with a y axis from 0 to the largest value, or to 1 for a `share`."""
    if not values:
        return ""
    top = 1.0 if share else max(values) or 1.0
    shown = values[:: max(1, len(values) // 200)]
    points = " ".join(
        f"{100 * n / max(1, len(shown) - 1):.1f},{30 - 28 * min(1.0, value / top):.1f}"
        for n, value in enumerate(shown)
    )
    now = f"{values[-1]:.0%}" if share else f"{values[-1]:.4g}"
    return (
        f'<figure class="ls-spark"><figcaption>{title} <b>{now}</b></figcaption>'
        f'<svg viewBox="0 0 100 32" preserveAspectRatio="none" role="img" '
        f'aria-label="{title} by step, now {now}"><polyline points="{points}" /></svg></figure>'
    )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60:02d} s"
