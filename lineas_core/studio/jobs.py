"""Training in the background: one worker, and a snapshot of every job that anyone may read."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from lineas_core.errors import LineasError
from lineas_core.health import HealthReport
from lineas_core.maps import SteeringMap
from lineas_core.models import Model
from lineas_core.prompts import PromptSet
from lineas_core.trainer import DivergedError, StepEvent, TrainConfig, TrainResult, train

Status = Literal["queued", "running", "checking", "done", "failed", "cancelled"]
TERMINAL: frozenset[Status] = frozenset({"done", "failed", "cancelled"})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A training job as it was at one moment.

    Attributes:
        id: cannot be guessed.
        model: name of the model.
        prompts: name of the prompt set.
        status: checking is the health report after the last step.
        event: the newest step.
        losses: before each step so far.
        map_id: of the saved map, once there is one; a failed or cancelled job may have one.
        health: of that map.
        message: why it failed.
    """

    id: str
    model: str
    prompts: str
    status: Status = "queued"
    event: StepEvent | None = None
    losses: tuple[float, ...] = ()
    map_id: str = ""
    health: HealthReport | None = None
    message: str = ""

    @property
    def finished(self) -> bool:
        """Nothing will change it any more."""
        return self.status in TERMINAL


class Jobs:
    """Runs training jobs one after the other.

    Args:
        load: model name -> model, called in the worker.
        keep: saves a finished map and gives its id.
    """

    def __init__(self, load: Callable[[str], Model], keep: Callable[[SteeringMap], str]) -> None:
        self._load, self._keep = load, keep
        self._jobs: dict[str, Job] = {}
        self._stopping: set[str] = set()
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="training")

    def start(
        self,
        model: str,
        prompts: PromptSet,
        configure: Callable[[Model], TrainConfig],
    ) -> Job:
        """Queue a job. `configure` is asked for the settings once the model is loaded."""
        job = Job(uuid.uuid4().hex, model, prompts.name)
        with self._lock:
            self._jobs[job.id] = job
        self._worker.submit(self._run, job.id, prompts, configure)
        return job

    def get(self, job_id: str) -> Job | None:
        """The newest snapshot of a job."""
        with self._lock:
            return self._jobs.get(job_id)

    def unfinished(self, model: str) -> Job | None:
        """The model's job that runs or waits longest."""
        with self._lock:
            jobs = [job for job in self._jobs.values() if job.model == model and not job.finished]
            return next(iter(jobs), None)

    def cancel(self, job_id: str) -> None:
        """Ask a job to stop within a step; what it has learned is kept."""
        with self._lock:
            self._stopping.add(job_id)

    def close(self) -> None:
        """Stop every job and wait for the worker."""
        with self._lock:
            self._stopping.update(self._jobs)
        self._worker.shutdown(wait=True)

    def _update(self, job_id: str, **changes: object) -> None:
        with self._lock:
            job = self._jobs[job_id]
            if not job.finished:
                self._jobs[job_id] = replace(job, **changes)  # type: ignore[arg-type]

    def _run(
        self, job_id: str, prompts: PromptSet, configure: Callable[[Model], TrainConfig]
    ) -> None:
        def should_stop() -> bool:
            with self._lock:
                return job_id in self._stopping

        losses: list[float] = []

        def on_event(event: StepEvent) -> None:
            losses.append(event.loss)
            last = event.step == event.steps
            self._update(
                job_id,
                status="checking" if last else "running",
                event=event,
                losses=tuple(losses),
            )

        if should_stop():
            self._update(job_id, status="cancelled")
            return
        self._update(job_id, status="running")
        try:
            model = self._load(self._jobs[job_id].model)
            result = train(
                model, prompts, configure(model), on_event=on_event, should_stop=should_stop
            )
            self._finish(job_id, "cancelled" if result.cancelled else "done", result)
        except DivergedError as error:
            self._finish(job_id, "failed", error.result, str(error))
        except LineasError as error:
            self._update(job_id, status="failed", message=str(error))
        except Exception as error:
            log.exception("training job %s failed", job_id)
            self._update(
                job_id,
                status="failed",
                message=f"Training stopped by an unexpected error ({type(error).__name__}). "
                "The log has the details.",
            )

    def _finish(self, job_id: str, status: Status, result: TrainResult, message: str = "") -> None:
        map_id = self._keep(result.map) if result.losses else ""
        self._update(job_id, status=status, map_id=map_id, health=result.health, message=message)
