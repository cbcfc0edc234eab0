"""A job queue with its store and library, and helpers to wait for jobs in tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lineas_core as lc
from lineas_core.studio.jobs.context import JobContext
from lineas_core.studio.jobs.device.priority import Priority
from lineas_core.studio.jobs.device.quotas import Quotas
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.queue import Jobs
from lineas_core.studio.jobs.run import run_job
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import JobRow, Store

CHANGES = {"steps": 12, "rate": 0.05, "batch_size": 4, "holdout": 0.25}


class At(Priority):
    """Calls `act` once, in the worker, the sixth time that training gives way.

    Attributes:
        steps: training steps done by then; training yields before each step and each frame.
    """

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.act: Callable[[], object] = lambda: None
        self.steps = self._calls = 0
        self._home = home

    def give_way(self) -> None:
        if self._calls == 5:
            self.steps = 5 - len(list(self._home.glob("frames/*/*.json")))
            self.act()
        self._calls += 1


class Shop:
    """A store, a library, and any number of successive `Jobs` on them."""

    def __init__(self, home: Path, model: Any, clock: Callable[[], float] = time.time) -> None:
        self.home, self.model = home, model
        self.store = Store(home / "studio.db", clock=clock)
        self.library = Library(self.store, home / "maps", clock=clock)

    def jobs(self, **settings: Any) -> Jobs:
        named = {"autostart": False, "max_queued": 3, "max_per_visitor": 3, **settings}
        context = JobContext(
            self.store,
            self.library,
            named.pop("load_model", lambda name: self.model),
            named.pop("priority", Priority()),
            JobFiles(self.home),
            named.pop("slice_runner", None),
            named.pop("quotas", Quotas()),
        )
        return Jobs(context, run_job, **named)

    def row(self, job: JobRow) -> JobRow:
        row = self.store.job(job.id)
        assert row is not None
        return row

    def map(self, job: JobRow) -> lc.SteeringMap:
        return self.library.map(self.row(job).map_id, job.owner)


def same(a: lc.SteeringMap, b: lc.SteeringMap) -> bool:
    return list(a.sites) == list(b.sites) and all(
        torch.equal(x, y) for s in a.sites for x, y in zip(a.sites[s], b.sites[s], strict=True)
    )
