"""What all training jobs share: the database, the library, the models and the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from lineas_core.models.load import Model
from lineas_core.studio.jobs.device.priority import Priority
from lineas_core.studio.jobs.device.quotas import Quotas
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.watchdog import Watchdog
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import JobRow, Store

T = TypeVar("T")


@runtime_checkable
class SliceRunner(Protocol):
    """Calls `function(model, *args, **kwargs)` on the device for the owner of a job.

    The function is `run_slice`, `run_fit`, `measure_run` or `measure_map`. All arguments but the
    model can be pickled; the model is looked up by its id. `run_slice` gets a `budget` in seconds,
    which does not include the preparation before its steps and a preview after them.
    """

    def __call__(
        self, owner: str, function: Callable[..., T], model: Model, *args: Any, **kwargs: Any
    ) -> T:
        """Call `function` and return its result."""
        ...


@dataclass(frozen=True)
class JobContext:
    """What all jobs share.

    Attributes:
        store: holds the jobs' rows.
        library: holds the maps that the jobs learn.
        load_model: name -> model.
        priority: makes training wait for answers between its steps.
        files: paths of checkpoints and frames.
        slice_runner: runs slices of training; by default they run in the worker.
        quotas: says whether the owner of a job watches it, where that is asked for.
        max_seconds: for which one job may train, by the clock on the wall.
        clock: a monotonic clock, in seconds.
    """

    store: Store
    library: Library
    load_model: Callable[[str], Model]
    priority: Priority
    files: JobFiles
    slice_runner: SliceRunner | None = None
    quotas: Quotas = field(default_factory=Quotas)
    max_seconds: float = math.inf
    clock: Callable[[], float] = time.monotonic


@runtime_checkable
class RunJob(Protocol):
    """Runs a claimed job to its end. Implemented by `run.run_job`."""

    def __call__(
        self,
        job: JobRow,
        context: JobContext,
        *,
        watchdog: Watchdog,
        closing: Callable[[], bool],
    ) -> str:
        """Why the job failed, if that could not be written to the database; "" otherwise."""
        ...
