"""What the page does with training jobs: start, watch, cancel, try again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.methods.names import STEPWISE, TITLES
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.limits import size_of
from lineas_core.studio.access.moderation import check_target
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.texts import whole
from lineas_core.studio.app import Studio, with_messages
from lineas_core.studio.jobs.frames import Frame, load_frame
from lineas_core.studio.rack.rack import patch
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import JobRow, MapRow
from lineas_core.studio.tabs.train.prompts import Modality, Table, prompt_set
from lineas_core.studio.tabs.train.style_line import check_length
from lineas_core.studio.views import job_cards
from lineas_core.studio.views.csv_tables import loss_rows, write_csv
from lineas_core.system.files import write_whole
from lineas_core.training.config import TrainConfig

RECENT = 6


@dataclass(frozen=True)
class Seen:
    """What the page shows of a job, so that it is not sent twice."""

    job: str = ""
    seq: int = -1
    running: bool = False

    @classmethod
    def from_page(cls, value: Any) -> Seen:
        """What the page sent back; nothing, where that is not one of these."""
        try:
            return cls(str(value["job"]), int(value["seq"]), bool(value["running"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return cls()


class TrainingWork:
    """Callbacks on jobs. Each gives what the train tab shows, in the order of `NAMES`.

    Args:
        studio: the state.
    """

    NAMES = ("seen", "timer", "progress", "live", "health", "train", "cancel", "retry", "keep",
             "film", "recent", "rack")  # fmt: skip

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

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
        steps: float | None,
        rate: float | None,
        gamma: float | None,
        method: str = STEPWISE,
    ) -> tuple[Any, ...]:
        """Queue a job on the table's prompts; empty settings are the model's shipped ones.

        The numbers are those of a training in steps: a method without steps leaves them.
        """
        owner = owner_of(key)
        changes: dict[str, Any] = {}
        shipped = shipped_settings(model)
        if steps and steps != shipped.steps:
            changes["steps"] = whole("steps", steps)
        if rate and rate != shipped.rate:
            changes["rate"] = float(rate)
        if gamma is not None and gamma != shipped.gamma:
            changes["gamma"] = float(gamma)
        if method != STEPWISE:
            changes = {}
        prompts = prompt_set(modality, name, concept, table)
        if modality == "image":
            check_length(model, [*prompts.source, *prompts.target])
        job = self.queue(owner, model, prompts, changes, preview_prompt, method)
        return self._shown(key, job, Seen())

    @staticmethod
    def settings_of(method: str) -> tuple[Any, Any]:
        """The settings that the method reads, and what is said of them."""
        return gr.update(visible=method == STEPWISE), job_cards.settings(method)

    def queue(
        self,
        owner: str,
        model: str,
        prompts: PromptSet,
        changes: dict[str, Any],
        preview_prompt: str = "",
        method: str = STEPWISE,
    ) -> JobRow:
        """Queue a job within the host's limits.

        Raises:
            ConfigError: there are too many steps, or the model or the method is not to be had here.
            LimitError: another limit is passed.
            JobError: the queue is full.
        """
        settings = self._studio.settings
        if changes.get("steps", 1) > settings.most_steps:
            raise ConfigError(
                f"steps is {changes['steps']}; {settings.most_steps} at most are allowed here."
            )
        self._studio.shelf.check(model)
        limits = self._studio.limits
        limits.admit(owner)
        limits.check_prompts(prompts)
        if settings.demo:
            check_target(prompts)
        limits.check_room(owner, size_of(prompts))
        return self._studio.jobs.start(
            owner, model, prompts, changes, method=method, preview_prompt=preview_prompt
        )

    @with_messages
    def poll(self, key: str, shown: Any) -> tuple[Any, ...]:
        """What has changed since the page looked last."""
        seen = Seen.from_page(shown)
        job = self._studio.jobs.get(seen.job, owner_of(key)) if seen.job else None
        if job is not None and job.seq == seen.seq and job.status != "queued":
            return (gr.skip(),) * len(self.NAMES)
        return self._shown(key, job, seen)

    @with_messages
    def cancel(self, key: str, shown: Any) -> tuple[Any, ...]:
        """Stop a job within a step; its map is kept."""
        seen = Seen.from_page(shown)
        self._studio.jobs.cancel(seen.job, owner_of(key))
        return self._shown(key, self._studio.jobs.get(seen.job, owner_of(key)), seen)

    @with_messages
    def retry(self, key: str, shown: Any) -> tuple[Any, ...]:
        """The same job again."""
        seen, owner = Seen.from_page(shown), owner_of(key)
        self._studio.limits.admit(owner)
        return self._shown(key, self._studio.jobs.retry(seen.job, owner), Seen())

    @with_messages
    def open(self, key: str, job_id: str) -> tuple[Any, ...]:
        """A job by its id, as a link holds it; else the visitor's running one, if any."""
        owner = owner_of(key)
        job = self._studio.jobs.get(job_id, owner) if job_id else None
        return self._shown(key, job or self._studio.jobs.unfinished(owner), Seen())

    @with_messages
    def keep(self, key: str, shown: Any) -> Any:
        """The job's map onto the rack, on, in place of the others of its kind."""
        owner = owner_of(key)
        job = self._studio.jobs.get(Seen.from_page(shown).job, owner)
        if job is None or not job.map_id:
            raise ConfigError("This job has no map. Train first.")
        # Deleted meanwhile: the message says so.
        self._studio.library.row(job.map_id, owner)
        return patch(rows=self._studio.library.maps(owner), add=[job.map_id], ask=True)

    @with_messages
    def film(self, key: str, shown: Any) -> str:
        """The job's frames as a GIF, to download."""
        seen, owner = Seen.from_page(shown), owner_of(key)
        self._studio.limits.admit(owner)
        film = self._studio.jobs.film(seen.job, owner)
        if film is None:
            raise ConfigError("There are no frames of this job any more.")
        return str(write_whole(self._studio.download_folder() / "training.gif", film))

    @with_messages
    def curves(self, key: str, shown: Any) -> str:
        """The job's losses and support by step, as a CSV file."""
        seen, owner = Seen.from_page(shown), owner_of(key)
        job = self._studio.jobs.get(seen.job, owner) if seen.job else None
        if job is None or not job.losses:
            raise ConfigError("There are no curves yet; train a map first.")
        rows = loss_rows(job.losses, job.supports)
        return write_csv(self._studio.download_folder() / "training.csv", *rows)

    def _shown(self, key: str, job: JobRow | None, seen: Seen) -> tuple[Any, ...]:
        owner, jobs = owner_of(key), self._studio.jobs
        running = job is not None and not job.finished
        rack: Any = gr.skip()
        # What was cancelled is unfinished: its map waits for Keep it on.
        if job is not None and job.map_id and job.status == "done" and seen.running:
            rows = self._studio.library.maps(owner)
            rack = patch(rows=rows, add=[job.map_id])
        waiting = jobs.position(job.id) if job and job.status == "queued" else 0
        left = jobs.eta(job.id) if job and running else None
        frame = _newest(jobs.frames(job.id, owner)) if job else None
        now = Seen(job.id, job.seq, running) if job else Seen()
        staged = job is not None and map_on_stage(self._studio.library, job, owner) is not None
        return (
            asdict(now),
            gr.Timer(active=running),
            job_cards.progress(job, waiting, left),
            job_cards.live(job, frame, staged=staged),
            job_cards.health(job),
            gr.update(interactive=not running),
            gr.update(interactive=running),
            gr.update(visible=job is not None and job.status in ("failed", "cancelled")),
            gr.update(visible=bool(job and not running and job.map_id)),
            gr.update(visible=bool(job and not running and job.frames and job.stepwise)),
            job_cards.recent(jobs.recent(owner, RECENT), now.job),
            rack,
        )


def map_on_stage(library: Library, job: JobRow, owner: str) -> MapRow | None:
    """The map of a job of the owner's that has ended; None if it has none, or it was deleted."""
    row = library.map_of_job(job.id, owner) if job.finished else None
    return row if row is not None and row.deleted is None else None


def shipped_settings(model: str) -> TrainConfig:
    """What a training on the model takes where nothing else is asked for."""
    entry = catalog().get(model)
    return TrainConfig(**(entry.train if entry else {}))


def shipped_fields(model: str) -> tuple[int, float, float]:
    """Steps, learning rate and sparsity of `shipped_settings`, for their fields."""
    shipped = shipped_settings(model)
    return shipped.steps, shipped.rate, shipped.gamma


def method_choices() -> list[tuple[str, str]]:
    """(title, name) of every method."""
    return [(TITLES[name], name) for name in TITLES]


def _newest(files: list[Path]) -> Frame | None:
    try:
        return load_frame(files[-1]) if files else None
    except (OSError, ValueError):
        return None
