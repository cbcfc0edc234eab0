"""Callbacks on training jobs: start, poll, cancel, retry."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.methods.names import DEFAULT_METHOD, STEPWISE
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.fields import setting, whole
from lineas_core.studio.answers.prompts import Modality, Table, check_length, prompt_set
from lineas_core.studio.answers.sites import Sites
from lineas_core.studio.app import Studio
from lineas_core.studio.components.outputs import unchanged
from lineas_core.studio.jobs.frames import Frame, load_frame
from lineas_core.studio.jobs.queue import shipped_settings
from lineas_core.studio.rack.rack import patch
from lineas_core.studio.storage.store import JobRow
from lineas_core.studio.tabs.train.shown_job import ShownJob, map_on_stage
from lineas_core.studio.views import job_cards
from lineas_core.studio.views.csv_tables import loss_rows, write_csv
from lineas_core.system.files import write_whole
from lineas_core.training.config import TrainConfig

RECENT = 6


class JobOutputs(NamedTuple):
    """The outputs that show a job in the train tab."""

    seen: Any
    timer: Any
    progress: Any
    live: Any
    health: Any
    train: Any
    cancel: Any
    retry: Any
    keep: Any
    film: Any
    recent: Any
    rack: Any


class ShippedFields(NamedTuple):
    """The training settings that have a field."""

    steps: Any
    rate: Any
    gamma: Any
    likelihood: Any
    distance: Any


class MethodOutputs(NamedTuple):
    """The outputs that change with the method."""

    numbers: Any
    weights: Any
    said: Any
    steps: Any
    rate: Any
    gamma: Any
    likelihood: Any
    distance: Any


class TrainingCallbacks:
    """Callbacks on jobs.

    Args:
        studio: the shared state of the app.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio, self._sites = studio, Sites(studio.inference)

    @with_messages
    def start(
        self,
        key: str,
        modality: Modality,
        model: str,
        name: str,
        concept: str,
        table: Table,
        preview_prompt: str,
        steps: str | float | None,
        rate: str | float | None,
        gamma: str | float | None,
        method: str = DEFAULT_METHOD,
        sites: str | None = "",
        likelihood: str | float | None = "",
        distance: str | float | None = "",
    ) -> JobOutputs:
        """Queue a job on the prompts in the table; empty settings take the model's shipped values.

        Steps, rate and gamma apply to stepwise training only, and likelihood and distance to
        LinEAS+; other methods ignore them.
        """
        owner = owner_of(key)
        changes: dict[str, Any] = {}
        if method in STEPWISE:
            shipped = TrainConfig(**shipped_settings(model, method))
            asked = {"steps": setting("steps", steps), "rate": setting("rate", rate),
                     "gamma": setting("gamma", gamma)}  # fmt: skip
            if method == "lineas+":
                asked |= {"likelihood": setting("likelihood", likelihood),
                          "distance": setting("distance", distance)}  # fmt: skip
            changes = {
                name: whole(name, value) if name == "steps" else value
                for name, value in asked.items()
                if value is not None and value != getattr(shipped, name)
            }
        chosen = (sites or "").strip()
        if chosen and chosen != self._sites.default(model):
            # Refused here if the model is in memory, else once the job has loaded it.
            self._sites.matched(model, chosen)
            changes["sites"] = chosen
        prompts = prompt_set(modality, name, concept, table)
        if modality == "image":
            check_length(model, [*prompts.source, *prompts.target])
        job = self._studio.train(
            owner, model, prompts, changes, preview_prompt=preview_prompt, method=method
        )
        return self._shown(key, job, ShownJob())

    @with_messages
    def models_of(self, modality: str) -> Any:
        """An update of the model list for a modality, with its first model chosen."""
        choices = self._studio.model_choices(modality)
        return gr.update(choices=choices, value=choices[0][1])

    @staticmethod
    def settings_of(method: str, model: str) -> MethodOutputs:
        """Show the settings that the method reads, and describe them."""
        texts = placeholders(model, method)
        shown = {name: gr.update(placeholder=text) for name, text in texts.items()}
        return MethodOutputs(
            numbers=gr.update(visible=method in STEPWISE),
            weights=gr.update(visible=method == "lineas+"),
            said=job_cards.settings(method),
            **shown,
        )

    @with_messages
    def poll(self, key: str, shown: Any) -> JobOutputs:
        """The changes since the previous poll."""
        seen, owner = ShownJob.from_page(shown), owner_of(key)
        self._studio.quotas.watch(owner)
        job = self._studio.jobs.get(seen.job, owner) if seen.job else None
        if job is not None and job.seq == seen.seq and job.status != "queued":
            return unchanged(JobOutputs)
        return self._shown(key, job, seen)

    @with_messages
    def cancel(self, key: str, shown: Any) -> JobOutputs:
        """Stop a job within one step; its map is kept."""
        seen = ShownJob.from_page(shown)
        self._studio.jobs.cancel(seen.job, owner_of(key))
        return self._shown(key, self._studio.jobs.get(seen.job, owner_of(key)), seen)

    @with_messages
    def retry(self, key: str, shown: Any) -> JobOutputs:
        """Queue the same job again."""
        seen, owner = ShownJob.from_page(shown), owner_of(key)
        self._studio.limits.admit(owner)
        return self._shown(key, self._studio.retry(owner, seen.job), ShownJob())

    @with_messages
    def open(self, key: str, job_id: str) -> JobOutputs:
        """Show the job whose id is in the link; otherwise the visitor's unfinished job, if any."""
        owner = owner_of(key)
        job = self._studio.jobs.get(job_id, owner) if job_id else None
        return self._shown(key, job or self._studio.jobs.unfinished(owner), ShownJob())

    @with_messages
    def keep(self, key: str, shown: Any) -> Any:
        """Put the job's map on the rack, switched on, and switch off the others of its modality."""
        owner = owner_of(key)
        job = self._studio.jobs.get(ShownJob.from_page(shown).job, owner)
        if job is None or not job.map_id:
            raise ConfigError("This job has no map. Train first.")
        # Raises with an explanation if the map has been deleted meanwhile.
        self._studio.library.row(job.map_id, owner)
        return patch(rows=self._studio.library.maps(owner), add=[job.map_id], ask=True)

    @with_messages
    def film(self, key: str, shown: Any) -> str:
        """Write the job's frames to a GIF for download."""
        seen, owner = ShownJob.from_page(shown), owner_of(key)
        self._studio.limits.admit(owner)
        film = self._studio.jobs.film(seen.job, owner)
        if film is None:
            raise ConfigError("There are no frames of this job any more.")
        with self._studio.ledger.download(owner, len(film)) as folder:
            return str(write_whole(folder / "training.gif", film))

    @with_messages
    def curves(self, key: str, shown: Any) -> str:
        """Write the job's losses and support by step to a CSV file."""
        seen, owner = ShownJob.from_page(shown), owner_of(key)
        job = self._studio.jobs.get(seen.job, owner) if seen.job else None
        if job is None or not job.losses:
            raise ConfigError("There are no curves yet; train a map first.")
        rows = loss_rows(job.losses, job.supports)
        with self._studio.ledger.download(owner) as folder:
            return write_csv(folder / "training.csv", *rows)

    def _shown(self, key: str, job: JobRow | None, seen: ShownJob) -> JobOutputs:
        owner, jobs = owner_of(key), self._studio.jobs
        running = job is not None and not job.finished
        rack: Any = gr.skip()
        # The map of a cancelled job is not fully trained, so it is added only by "Keep it on".
        if job is not None and job.map_id and job.status == "done" and seen.running:
            rows = self._studio.library.maps(owner)
            rack = patch(rows=rows, add=[job.map_id])
        waiting = jobs.position(job.id) if job and job.status == "queued" else 0
        left = jobs.eta(job.id) if job and running else None
        frame = _newest(jobs.frames(job.id, owner)) if job else None
        now = ShownJob(job.id, job.seq, running) if job else ShownJob()
        staged = job is not None and map_on_stage(self._studio.library, job, owner) is not None
        ended = job is not None and not running
        return JobOutputs(
            seen=asdict(now),
            timer=gr.Timer(active=running),
            progress=job_cards.progress(job, waiting, left),
            live=job_cards.live(job, frame, staged=staged),
            health=job_cards.health(job),
            train=gr.update(interactive=not running),
            cancel=gr.update(interactive=running),
            retry=gr.update(visible=job is not None and job.status in ("failed", "cancelled")),
            keep=gr.update(visible=bool(job and ended and job.map_id)),
            film=gr.update(visible=bool(job and ended and job.frames and job.stepwise)),
            recent=job_cards.recent(jobs.recent(owner, RECENT), now.job),
            rack=rack,
        )


def placeholders(model: str, method: str) -> dict[str, str]:
    """What stands in grey in each of `ShippedFields`: the settings for a model and a method."""
    shipped = TrainConfig(**shipped_settings(model, method))
    rate = "measured" if shipped.optimizer == "sgd" else "automatic"
    return {
        "steps": str(shipped.steps),
        "rate": rate if shipped.rate is None else f"{shipped.rate:g}",
        "gamma": f"{shipped.gamma:g}",
        "likelihood": f"{shipped.likelihood:g}",
        "distance": f"{shipped.distance:g}",
    }


def shipped_fields(model: str, method: str = DEFAULT_METHOD) -> ShippedFields:
    """The fields emptied, with the settings for the model and method as placeholders.

    An empty field means the setting of whichever model is trained, so that a click on Train that
    comes before the answer to a change of the model never takes the settings of another one.
    """
    texts = placeholders(model, method)
    return ShippedFields(**{n: gr.update(value="", placeholder=t) for n, t in texts.items()})


def _newest(files: list[Path]) -> Frame | None:
    try:
        return load_frame(files[-1]) if files else None
    except (OSError, ValueError):
        return None
