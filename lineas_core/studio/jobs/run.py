"""Run one job: load the model, train in slices or fit, check the map's health, save the map."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from safetensors import SafetensorError

from lineas_core.errors import LineasError, TrainingError
from lineas_core.models.load import Model
from lineas_core.studio.access.error_messages import why_failed
from lineas_core.studio.jobs.context import JobContext
from lineas_core.studio.jobs.device.quotas import ABSENT
from lineas_core.studio.jobs.fits import run_fit
from lineas_core.studio.jobs.frames import Frame, Sample, frame_files, save_frame
from lineas_core.studio.jobs.measuring import MeasuredMap, measure_map, measure_run
from lineas_core.studio.jobs.slices import SliceResult, run_slice
from lineas_core.studio.jobs.watchdog import Watchdog
from lineas_core.studio.storage.sidecars import write_row
from lineas_core.studio.storage.store import JobRow, Status, StoreError
from lineas_core.system.words import counted
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent
from lineas_core.training.state import TrainState

SECONDS_BETWEEN_UPDATES = 0.25
SECONDS_PER_SLICE = 20.0
# A page that has not asked for longer may be closed: wait for it before the next slice.
SECONDS_BETWEEN_REQUESTS = 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


def run_job(
    job: JobRow, context: JobContext, *, watchdog: Watchdog, closing: Callable[[], bool]
) -> str:
    """Run a claimed job to its end, or put it back into the queue if the program is closing.

    Any error becomes the job's message; unexpected ones are also logged.

    Args:
        job: a running job, as returned by `Store.claim_next`.
        context: what all jobs share.
        watchdog: notified of each step.
        closing: called before each step; returns whether the program is closing.

    Returns:
        Why the job failed, if that could not be written to the database; "" otherwise.
    """
    run = _Run(job, context, watchdog, closing)
    try:
        run.go()
    except Exception as error:
        if closing():
            # What a job uses is being closed as well, such as the process of a lent GPU.
            log.info("job %s was interrupted by the end of the program", job.id, exc_info=True)
            with suppress(StoreError):
                run.put_back()
            return ""
        message = why_failed(error, context.files.home)
        if not isinstance(error, LineasError):
            log.exception("training job %s failed", job.id)
        try:
            context.store.transition(job.id, {"running"}, "failed", message=message)
        except StoreError:
            log.exception("job %s failed, and the database cannot be told: %s", job.id, message)
            return message
    return ""


class _Run:
    """One run of a job. Keeps the job's row up to date."""

    def __init__(
        self, job: JobRow, context: JobContext, watchdog: Watchdog, closing: Callable[[], bool]
    ) -> None:
        self._job, self._watchdog, self._closing = job, watchdog, closing
        self._context, self._store, self._slices = context, context.store, context.slice_runner
        self._checkpoint = context.files.checkpoint(job.id)
        self._sidecar = context.files.sidecar(job.id)
        self._frames = context.files.frames(job.id)
        # Number of attempts since the newest checkpoint, including this one.
        self._attempts, self._interruptions = job.attempts, job.interruptions
        self._losses, self._supports = list(job.losses), list(job.supports)
        self._newest: StepEvent | None = None
        self._note = ""
        self._updated, self._began = -math.inf, math.inf
        self._unsteered: Sample | None = None

    def go(self) -> None:
        """Load the model, train or fit a map, measure it and save it."""
        model = self._context.load_model(self._job.model)
        self._watchdog.beat()
        self._began = self._context.clock()
        config = TrainConfig.for_model(model, self._job.method, **self._job.changes)
        if self._job.stepwise:
            self._train(model, config)
        else:
            self._fit(model, config)

    def _train(self, model: Model, config: TrainConfig) -> None:
        state = self._resume()
        self._store.progress(self._job.id, phase="training", steps=config.steps)
        done, diverged = False, ""
        while not (done or diverged or self._should_stop()):
            if not self._watched():
                continue
            result = self._slice(model, config, state)
            state, done, diverged = result.state, result.done, result.diverged
            self._watchdog.beat()
            if state is not None:
                self._keep_state(state)
        if self._watchdog.given_up:
            return
        if done:
            self._finish("done", model, config, state)
        elif diverged:
            self._finish("failed", model, config, state, diverged)
        elif self._store.stop_asked(self._job.id):
            self._finish("cancelled", model, config, state)
        elif late := self._too_late():
            self._finish("failed", model, config, state, late)
        else:
            self.put_back()

    def _fit(self, model: Model, config: TrainConfig) -> None:
        job = self._job
        self._store.progress(job.id, phase="training")
        arguments = (job.prompts, config, job.method)
        if self._slices is None:
            self._context.priority.give_way()
            fitted = run_fit(
                model,
                *arguments,
                should_stop=self._should_stop,
                give_way=self._give_way,
                preview_prompt=job.preview_prompt,
                clock=self._context.clock,
            )
        else:
            fitted = self._call(run_fit, model, *arguments, preview_prompt=job.preview_prompt)
        if self._watchdog.given_up:
            return
        self._watchdog.beat()
        if (smap := fitted.map) is None:
            if self._store.stop_asked(job.id):
                self._store.transition(job.id, {"running"}, "cancelled")
            elif late := self._too_late():
                self._store.transition(job.id, {"running"}, "failed", message=late)
            else:
                self.put_back()
            return
        self._store.progress(
            job.id, phase="checking", step=1, seconds=fitted.seconds, support=smap.support()
        )
        if fitted.preview is not None:
            self._keep_frame(fitted.preview)
        self._keep(
            "done",
            lambda: self._call(measure_map, model, job.prompts, config, smap, recommend=True),
        )

    def put_back(self) -> None:
        """Queue the job again; the program is closing, so the attempt does not count."""
        self._store.transition(self._job.id, {"running"}, "queued", attempts=self._attempts - 1)

    def _call(self, function: Callable[..., T], model: Model, *args: Any, **kwargs: Any) -> T:
        """Call `function` on the device: directly, or with the slice runner."""
        if self._slices is None:
            return function(model, *args, **kwargs)
        return self._slices(self._job.owner, function, model, *args, **kwargs)

    def _watched(self) -> bool:
        """Whether the device may be used now; waits a moment if a visitor's page has to say so.

        Raises:
            TrainingError: the page was closed.
        """
        absent = self._context.quotas.absent_for(self._job.owner)
        if absent > ABSENT:
            raise TrainingError(
                "Training draws on your GPU quota while its page is open, and the page was closed. "
                "Keep it open, and try again."
            )
        if absent > SECONDS_BETWEEN_REQUESTS:
            self._watchdog.beat()
            time.sleep(SECONDS_BETWEEN_UPDATES)
            return False
        return True

    def _should_stop(self) -> bool:
        if self._watchdog.given_up or self._closing() or self._too_late():
            return True
        return self._store.stop_asked(self._job.id)

    def _too_late(self) -> str:
        """Why the job has to end, if it has trained for the longest time allowed; "" otherwise."""
        most = self._context.max_seconds
        if self._job.seconds + self._context.clock() - self._began < most:
            return ""
        return (
            f"The job ran for {counted(round(most / 60), 'minute')}, the limit here. What it has "
            "learned so far is kept. Take fewer steps, or fewer or shorter prompts."
        )

    def _give_way(self) -> None:
        """Let answers run first, and report to the watchdog that a fit is making progress."""
        self._context.priority.give_way()
        self._watchdog.beat()

    def _slice(self, model: Model, config: TrainConfig, state: TrainState | None) -> SliceResult:
        prompts, prompt, method = self._job.prompts, self._job.preview_prompt, self._job.method
        if self._slices is None:
            return run_slice(
                model,
                prompts,
                config,
                state,
                method=method,
                should_stop=self._should_stop,
                on_event=self._on_step,
                give_way=self._context.priority.give_way,
                on_state=self._keep_state,
                on_preview=self._keep_frame,
                preview_prompt=prompt,
                clock=self._context.clock,
            )
        self._context.priority.give_way()
        result = self._call(
            run_slice,
            model,
            prompts,
            config,
            state,
            method=method,
            budget=SECONDS_PER_SLICE,
            preview_prompt=prompt,
            unsteered=self._unsteered,
        )
        for event in result.events:
            self._on_step(event)
        if result.preview is not None:
            self._keep_frame(result.preview)
        return result

    def _finish(
        self,
        status: Status,
        model: Model,
        config: TrainConfig,
        state: TrainState | None,
        message: str = "",
    ) -> None:
        """Measure and save the map, if any step was done, and end the job."""
        job = self._job
        if state is None or not state.losses:
            self._store.transition(job.id, {"running"}, status, message=message)
            return
        steps = len(state.losses)
        self._store.progress(
            job.id,
            phase="checking",
            step=steps,
            loss=state.losses[-1],
            losses=state.losses,
            supports=tuple(self._supports[:steps]),
            seconds=state.seconds,
            seconds_left=0.0,
        )
        arguments = (job.prompts, config, state)
        self._keep(
            status,
            lambda: self._call(measure_run, model, *arguments, recommend=status == "done"),
            state.losses,
            message,
        )

    def _keep(
        self,
        status: Status,
        measure: Callable[[], MeasuredMap],
        losses: Sequence[float] = (),
        message: str = "",
    ) -> None:
        """Measure and save a map, and end the job with it."""
        job = self._job
        self._watchdog.beat()
        # If the program was killed after saving the map and before ending the job, use that map.
        row = self._context.library.map_of_job(job.id, job.owner)
        if row is None:
            measured = measure()
            if self._watchdog.given_up:
                return
            row = self._context.library.add_map(
                job.owner,
                measured.map,
                title=job.title,
                prompts=job.prompts,
                health=measured.health,
                recommended=measured.recommended,
                losses=losses,
                job=job.id,
            )
        self._store.transition(
            job.id,
            {"running"},
            status,
            map_id=row.id,
            health=row.health,
            support=row.support,
            message=message or self._note,
        )

    def _resume(self) -> TrainState | None:
        """The state in the checkpoint; None if it is missing or cannot be read."""
        if not self._checkpoint.exists():
            return None
        try:
            state = TrainState.load(self._checkpoint)
        except TrainingError:
            log.warning("job %s starts anew", self._job.id, exc_info=True)
            return None
        # A row from a backup may be behind its checkpoint, which holds losses but no supports.
        if (behind := len(state.losses) - len(self._losses)) > 0:
            self._losses += state.losses[-behind:]
            self._supports += (self._supports[-1:] or [0.0]) * behind
        return state

    def _on_step(self, event: StepEvent) -> None:
        """Record a step, and write it to the row if the last update is old enough."""
        if self._slices is None:
            self._watchdog.step()
        # A run that resumes from a checkpoint repeats some steps that are already in the row.
        self._losses[event.step - 1 :] = [event.loss]
        self._supports[event.step - 1 :] = [event.support]
        self._newest = event
        if event.note:
            self._note = event.note
            self._store.progress(self._job.id, message=event.note)
        if (
            event.steps_left == 0
            or self._context.clock() - self._updated >= SECONDS_BETWEEN_UPDATES
        ):
            self._update_row()

    def _update_row(self) -> None:
        if (event := self._newest) is None:
            return
        self._updated = self._context.clock()
        self._newest = None
        self._store.progress(
            self._job.id,
            step=event.step,
            loss=event.loss,
            seconds=event.seconds,
            seconds_left=event.seconds_left,
            support=event.support,
            losses=tuple(self._losses),
            supports=tuple(self._supports),
        )

    def _keep_state(self, state: TrainState) -> None:
        # Update the row first: a checkpoint does not hold the supports of its steps.
        self._update_row()
        try:
            if not self._sidecar.exists():
                write_row(self._sidecar, self._job)
            state.save(self._checkpoint)
        except (OSError, SafetensorError, TrainingError):
            # Only a restart needs the checkpoint; without it training starts anew.
            log.warning("job %s has no checkpoint", self._job.id, exc_info=True)
            return
        # Limit only restarts without progress: a new checkpoint resets both counts.
        if self._attempts + self._interruptions > 1 and len(state.losses) > self._job.step:
            self._attempts, self._interruptions = 1, 0
            self._store.progress(self._job.id, attempts=1, interruptions=0)

    def _keep_frame(self, frame: Frame) -> None:
        self._unsteered = frame.unsteered
        try:
            save_frame(self._frames, frame)
        except OSError:
            log.warning("job %s lost a preview frame", self._job.id, exc_info=True)
            return
        self._store.progress(self._job.id, frames=len(frame_files(self._frames)))
