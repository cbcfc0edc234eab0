"""Background training: a queue of jobs in the database, and one worker that runs them."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lineas_core.errors import ConfigError, LineasError
from lineas_core.methods.names import DEFAULT_METHOD, STEPWISE, TEXT_ONLY, TITLES, check_method
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.jobs.context import JobContext, RunJob
from lineas_core.studio.jobs.film import draw_training_film
from lineas_core.studio.jobs.frames import frame_files, load_frames
from lineas_core.studio.jobs.watchdog import Watchdog
from lineas_core.studio.jobs.worker import JobWorker
from lineas_core.studio.storage.library import MAX_TITLE
from lineas_core.studio.storage.store import JobRow
from lineas_core.system.words import counted
from lineas_core.training.config import OF_METHOD, TrainConfig

OPENING = "Once upon a time"
# Settings that only stepwise training reads.
OF_STEPS = ("steps", "rate", "optimizer", "gamma", "l1", "group", "prox_step")
# Settings that only LinEAS+ reads.
OF_LIKELIHOOD = ("distance", "likelihood")


class JobError(LineasError, RuntimeError):
    """A job cannot be started."""


class Jobs:
    """Runs training jobs one after the other; the store holds their settings and progress.

    Only one process at a time may use a store: at startup, running jobs are marked interrupted.

    Args:
        context: what all jobs share.
        run_job: runs a claimed job to its end; called in the worker.
        autostart: start the worker; without it, each call of `work` runs one job.
        forget_model: drops the model of a job that hangs from the cache, so that the next job
            loads it again; without it a job that hangs stops the queue.
        on_end: called in the worker with each job that has reached a final status.
        max_queued: maximum number of waiting jobs of all visitors.
        max_per_visitor: maximum number of waiting and running jobs of one visitor.
        max_per_address: the same of one network address, however many visitors it is; as many as
            may wait by default.
        died_of_itself: whether the last process died of what it did; see `Store.recover`.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        context: JobContext,
        run_job: RunJob,
        *,
        autostart: bool = True,
        forget_model: Callable[[str], object] | None = None,
        on_end: Callable[[JobRow], object] | None = None,
        max_queued: int,
        max_per_visitor: int,
        max_per_address: int | None = None,
        died_of_itself: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._context, self._run_job, self._on_end = context, run_job, on_end
        self._store, self._files = context.store, context.files
        self._max_queued, self._max_per_visitor = max_queued, max_per_visitor
        self._max_per_address = max_per_address or max_queued
        # Job id -> network address, of unfinished jobs that were started since the app was.
        self._addresses: dict[str, str] = {}
        self._clock = clock
        self._starting = threading.Lock()
        self._worker = JobWorker(self._store, self._run, forget_model, self._ended)
        self._store.recover(died_of_itself=died_of_itself)
        if autostart:
            self._worker.start()

    def start(
        self,
        owner: str,
        model: str,
        prompts: PromptSet,
        changes: Mapping[str, Any],
        *,
        method: str = DEFAULT_METHOD,
        preview_prompt: str = "",
        title: str = "",
        parent: str = "",
        address: str = "",
    ) -> JobRow:
        """Queue a job.

        Args:
            owner: the owner of the job and of its map.
            model: the name to load the model by.
            prompts: the source and target.
            changes: settings that differ from the model's shipped ones.
            method: a key of `TITLES`.
            preview_prompt: the prompt of the preview frames; by default `OPENING` for text, and
                the first source prompt for images.
            title: the displayed title; by default that of the prompts, with the method if it is
                not the default one.
            parent: id of the job that this one retries.
            address: the network address that it is started from; "" where that is not known.

        Raises:
            ConfigError: there is no such setting or method, a value is out of range, or the method
                is not for images.
            JobError: the queue is full, or the visitor has `max_per_visitor` unfinished jobs, or
                the address `max_per_address`.
        """
        config = _config(model, method, changes)
        if prompts.modality == "image" and method in TEXT_ONLY:
            raise ConfigError(
                f"method is {method!r}, which needs the likelihood of texts; {model} makes images. "
                f"Choose another, such as {TITLES[DEFAULT_METHOD]}."
            )
        job = JobRow(
            id=uuid.uuid4().hex,
            owner=owner,
            model=model,
            method=method,
            title=title.strip()[:MAX_TITLE] or _title(prompts, method),
            prompts=prompts,
            changes=dict(changes),
            preview_prompt=preview_prompt.strip() or _preview_prompt(prompts),
            steps=config.steps if method in STEPWISE else 1,
            parent=parent,
        )
        with self._starting:
            self._check_room(owner, address)
            job = self._store.add_job(job)
            if address:
                self._addresses[job.id] = address
        self._worker.wake()
        return job

    def get(self, job_id: str, owner: str) -> JobRow | None:
        """The current row of the owner's job with that id; None if there is none."""
        job = self._store.job(job_id)
        return job if job is not None and job.owner == owner else None

    def unfinished(self, owner: str, model: str | None = None) -> JobRow | None:
        """The owner's running or next job, of `model` if it is given; None if there is none."""
        jobs = self._store.unfinished(owner)
        return next((job for job in jobs if model in (None, job.model)), None)

    def recent(self, owner: str, limit: int = 50) -> list[JobRow]:
        """The owner's jobs, newest first."""
        return self._store.jobs(owner, limit)

    def cancel(self, job_id: str, owner: str) -> bool:
        """Cancel the owner's job: a waiting one at once, a running one within a step.

        What it has learned is kept as a map. A job that waits after a restart and has done steps
        therefore ends only when the worker is free to check its map.

        Returns:
            True if there is such a job and it had not ended.
        """
        job = self.get(job_id, owner)
        if job is None:
            return False
        if job.step == 0 and self._store.transition(job_id, {"queued"}, "cancelled"):
            return True
        return self._store.ask_to_stop(job_id)

    def retry(self, job_id: str, owner: str, address: str = "") -> JobRow:
        """Queue a new job with the settings of a failed or cancelled one, from the first step.

        Raises:
            JobError: there is no such job, it neither failed nor was cancelled, or as for `start`.
        """
        job = self.get(job_id, owner)
        if job is None:
            raise JobError(f"There is no job {job_id!r} here. Start a new one.")
        if job.status not in ("failed", "cancelled"):
            raise JobError(
                f"The job is {job.status}; only one that failed or was cancelled can be tried "
                "again. Start a new one."
            )
        return self.start(
            owner,
            job.model,
            job.prompts,
            job.changes,
            method=job.method,
            preview_prompt=job.preview_prompt,
            title=job.title,
            parent=job.id,
            address=address,
        )

    def position(self, job_id: str) -> int:
        """The job's position in the queue: 1 if it is next, 0 if it is not in the queue."""
        return self._store.position(job_id)

    def eta(self, job_id: str) -> float | None:
        """Estimated seconds until the job's last step; None if it ended or nothing was measured.

        The estimate of a running job comes from its own steps, that of a waiting job from the
        steps of the model's newest job, plus the estimates of all jobs before it.
        """
        total = 0.0
        for job in self._store.unfinished():
            left = self._seconds_left(job)
            if left is None:
                return None
            total += left
            if job.id == job_id:
                return total
        return None

    def frames(self, job_id: str, owner: str) -> list[Path]:
        """JSON files of the job's preview frames, sorted by step; `load_frame` reads one."""
        return frame_files(self._files.frames(job_id)) if self.get(job_id, owner) else []

    def film(self, job_id: str, owner: str) -> bytes | None:
        """The job's frames as a GIF; None if there are none yet or the method has no steps."""
        job = self.get(job_id, owner)
        if job is None or not job.stepwise:
            return None
        frames = load_frames(self._files.frames(job_id))
        return draw_training_film(frames) if frames else None

    def prune(self, keep_seconds: float) -> None:
        """Remove checkpoints and frames of jobs that ended more than `keep_seconds` ago.

        Files of that age whose job is unknown are removed too. Nothing is removed until the clock
        has run evenly for that long; see `Store.steady_for`.
        """
        if self._store.steady_for(keep_seconds) < keep_seconds:
            return
        for path in self._files.ended(self._store, self._clock() - keep_seconds):
            self._files.remove(path)

    def work(self) -> bool:
        """Run the next job of the queue to its end. Returns whether there was one."""
        return self._worker.work()

    def stop(self) -> None:
        """Ask the worker to stop, without waiting for it as `close` does."""
        self._worker.stop()

    def close(self) -> None:
        """Stop after the current step; the job resumes from there at the next start."""
        self._worker.close()

    def _run(self, job: JobRow, watchdog: Watchdog) -> str:
        return self._run_job(
            job, self._context, watchdog=watchdog, closing=lambda: self._worker.closing
        )

    def _ended(self, job: JobRow) -> None:
        # If the database is lost, recovery must not queue an ended job again from its sidecar.
        self._files.sidecar(job.id).unlink(missing_ok=True)
        if self._on_end is not None:
            self._on_end(job)

    def _check_room(self, owner: str, address: str) -> None:
        jobs = self._store.unfinished()
        unfinished = {job.id for job in jobs}
        self._addresses = {n: a for n, a in self._addresses.items() if n in unfinished}
        waiting = sum(job.status != "running" for job in jobs)
        own = sum(job.owner == owner for job in jobs)
        if own >= self._max_per_visitor:
            first = next(job for job in jobs if job.owner == owner)
            raise JobError(
                f"You have {counted(own, 'unfinished training job')}, and "
                f"{self._max_per_visitor} at a time "
                f"is the limit. Start another when one has ended{self._when(first)}, or cancel one."
            )
        near = [job for job in jobs if address and self._addresses.get(job.id) == address]
        if len(near) >= self._max_per_address:
            raise JobError(
                f"{counted(len(near), 'unfinished training job')} of your network address, and "
                f"{self._max_per_address} at a time is the limit, so that others get a turn. "
                f"Start another when one has ended{self._when(near[0])}."
            )
        if waiting >= self._max_queued:
            raise JobError(
                f"{counted(waiting, 'unfinished training job')} in all, and "
                f"{self._max_queued} is the limit. "
                f"Try again when the next one starts{self._when(jobs[0])}."
            )

    def _when(self, job: JobRow) -> str:
        eta = self.eta(job.id)
        if eta is None:
            return ", in a few minutes"
        return f", in about {max(1, round(eta))} s" if eta < 90 else f", in {round(eta / 60)} min"

    def _seconds_left(self, job: JobRow) -> float | None:
        if job.status == "running" and job.phase in ("training", "checking") and job.step:
            return job.seconds_left
        pace = self._store.seconds_a_step(job.model, job.method)
        return None if pace is None else pace * (job.steps - job.step)


def _config(model: str, method: str, changes: Mapping[str, Any]) -> TrainConfig:
    """Validate the settings before the model is loaded, so that mistakes are reported at once."""
    check_method(method)
    if method not in STEPWISE and (idle := [name for name in OF_STEPS if name in changes]):
        raise ConfigError(
            f"{idle[0]} is {changes[idle[0]]!r}, but {TITLES[method]} is fitted in one go and does "
            f"not read it. Leave it out, or train with {TITLES[DEFAULT_METHOD]}."
        )
    if method != "lineas+" and (idle := [name for name in OF_LIKELIHOOD if name in changes]):
        raise ConfigError(
            f"{idle[0]} is {changes[idle[0]]!r}, which {TITLES[method]} does not read. Leave it "
            f"out, or train with {TITLES['lineas+']}."
        )
    try:
        return TrainConfig(**{**shipped_settings(model, method), **changes})
    except TypeError as error:
        raise ConfigError(f"A training setting is of the wrong name or kind: {error}.") from error


def shipped_settings(model: str, method: str) -> dict[str, Any]:
    """What `TrainConfig.for_model` would take, without the model: those of its entry, if any."""
    entry = catalog().get(model)
    return {**(entry.train if entry else {}), **OF_METHOD.get(method, {})}


def _title(prompts: PromptSet, method: str) -> str:
    """The title of the prompts, followed by the method unless it is the default one."""
    title, named = prompts.title or prompts.name, f" · {TITLES[method]}"
    if method == DEFAULT_METHOD:
        return title[:MAX_TITLE]
    return title[: MAX_TITLE - len(named)] + named


def _preview_prompt(prompts: PromptSet) -> str:
    return OPENING if prompts.modality == "text" else prompts.source[0]
