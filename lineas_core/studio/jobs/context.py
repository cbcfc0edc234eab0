"""What all training jobs are run with: the database, the library, the models and the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from lineas_core.models.load import Model
from lineas_core.studio.jobs.device.priority import Priority
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.watchdog import Watchdog
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import JobRow, Store

T = TypeVar("T")


@runtime_checkable
class SliceRunner(Protocol):
    """Calls `function(model, *args, **kwargs)` on the device and returns its result.

    The function is `run_slice`, `run_fit`, `measure_run` or `measure_map`. Everything but the model
    can be pickled; the model is found again by its id. `run_slice` is given its `budget` in
    seconds; the preparation before and a preview after it take some more.
    """

    def __call__(self, function: Callable[..., T], model: Model, *args: Any, **kwargs: Any) -> T:
        """Call it."""
        ...


@dataclass(frozen=True)
class JobContext:
    """What all jobs share.

    Attributes:
        store: has the jobs' rows.
        library: keeps the maps they learn.
        load_model: name -> model.
        priority: training waits for sliders between its steps.
        files: where checkpoints and frames are.
        slice_runner: where slices of training run; in the worker by default.
        clock: a monotonic clock, in seconds.
    """

    store: Store
    library: Library
    load_model: Callable[[str], Model]
    priority: Priority
    files: JobFiles
    slice_runner: SliceRunner | None = None
    clock: Callable[[], float] = time.monotonic


@runtime_checkable
class RunJob(Protocol):
    """Takes a claimed job to its end; `run.run_job` does."""

    def __call__(
        self,
        job: JobRow,
        context: JobContext,
        *,
        watchdog: Watchdog,
        closing: Callable[[], bool],
    ) -> str:
        """Why it failed, where the database could not be told; "" otherwise."""
        ...
