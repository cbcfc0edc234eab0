"""Measure the cells of a table in several processes and on several hosts, with Ray.

The table itself is assembled in the calling process; only its cells are distributed. A worker loads
the model by name and runs the table's own `measure` up to its assigned cell, so only a cell and its
rows are transferred, and all workers run the same code.

If a worker is lost, its cell is reassigned and another worker is started.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lineas_core.errors import ConfigError, LineasError, ModelError, TrainingError
from lineas_core.evaluation.cells import Bench, Cell, Row, described
from lineas_core.evaluation.report import Table
from lineas_core.evaluation.tables import find_table
from lineas_core.methods.lineas import DivergedError
from lineas_core.models.load import load_model

# How many workers a cell may lose before the run fails.
MAX_LOSSES = 3
# Seconds without a result before reporting that no worker is ready yet.
PATIENCE = 60.0


@dataclass(frozen=True)
class Job:
    """What a worker needs to know about the run.

    Attributes:
        table: name of the table.
        sizes: of the table.
        seeds: of the table.
        model: the name to load the model by.
        device: to load it on.
        folder: the cache of maps and texts, shared by all hosts.
        started_in: the folder that relative paths refer to.
    """

    table: str
    sizes: Any
    seeds: Sequence[int]
    model: str
    device: str
    folder: Path
    started_in: Path


class Measured(NamedTuple):
    """A cell's rows, and the progress lines reported meanwhile."""

    rows: list[Row]
    log: list[str]


class Worker:
    """A process that measures cells, one at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def load(self) -> None:
        """Load the model; separate from `__init__`, so that errors reach the caller."""
        if self._job.started_in.is_dir():
            os.chdir(self._job.started_in)
        self._model = load_model(self._job.model, device=self._job.device)

    def measure(self, part: str, cell: Cell) -> Measured:
        """Measure one cell.

        Args:
            part: the name under which the table measures the cell.
            cell: the cell.
        """
        lines: list[str] = []
        bench = _OneCell(self._model, self._job.folder, lines.append, part=part, wanted=cell)
        try:
            find_table(self._job.table).measure(bench, self._job.sizes, self._job.seeds)
        except _CellReached as reached:
            return Measured(reached.rows, lines)
        except DivergedError as error:
            # Drop the partial result: the caller does not use it, and it is large to send.
            raise TrainingError(str(error)) from None
        raise ConfigError(
            f"There is no cell {described(cell)} of {part} in this worker's version of the table. "
            "Install the same version of the library on all hosts."
        )


class _CellReached(BaseException):
    """Stops a table at the wanted cell. A BaseException, so that no table's `except` catches it."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.rows = rows


@dataclass(frozen=True)
class _OneCell(Bench):
    """Measures one cell, then stops. The cells of earlier parts are already in the folder."""

    part: str = field(kw_only=True)
    wanted: Cell = field(kw_only=True)

    def rows(
        self, table: str, cells: Sequence[Cell], measure: Callable[[Cell], list[Row]]
    ) -> pd.DataFrame:
        if table == self.part and self.wanted in cells:
            raise _CellReached(measure(self.wanted))
        return super().rows(table, cells, measure)


@dataclass(frozen=True)
class _HandsOut(Bench):
    """Lets workers measure the cells, then assembles the table from the cache."""

    crew: _Crew = field(kw_only=True)

    def rows(
        self, table: str, cells: Sequence[Cell], measure: Callable[[Cell], list[Row]]
    ) -> pd.DataFrame:
        missing: list[Cell] = []
        for cell in cells:
            if cell not in missing and self.kept(table, cell) is None:
                missing.append(cell)
        for cell, rows in self.crew.measure(table, missing):
            self.keep(table, cell, rows)
        return super().rows(table, cells, measure)


class _Crew:
    """The workers of a run. Each is idle, loading the model, or measuring a cell."""

    def __init__(self, ray: Any, job: Job, count: int, tell: Callable[[str], object]) -> None:
        self._ray, self._job, self._count, self._tell = ray, job, count, tell
        self._worker = ray.remote(**_shares(ray, count, job.device))(Worker)
        self._all: set[Any] = set()
        self._idle: list[Any] = []
        # Pending result -> (worker, index of its cell); the index is None while it loads the model.
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._losses: Counter[int | None] = Counter()

    def measure(self, part: str, cells: Sequence[Cell]) -> Iterator[tuple[Cell, list[Row]]]:
        """Yield each cell with its rows, in order of completion."""
        waiting = deque(range(len(cells)))
        left = len(cells)
        # More workers than cells would load the model for nothing.
        for _ in range(len(self._all), min(self._count, left)):
            self._start()
        while left:
            while waiting and self._idle:
                number, worker = waiting.popleft(), self._idle.pop()
                self._tell(f"{part} {number + 1}/{len(cells)}: {described(cells[number])}")
                self._busy[worker.measure.remote(part, cells[number])] = worker, number
            ready, _ = self._ray.wait(list(self._busy), timeout=PATIENCE)
            if not ready:
                if all(at is None for _, at in self._busy.values()):
                    self._tell("no worker has been scheduled and loaded the model yet")
                continue
            done = ready[0]
            worker, at = self._busy.pop(done)
            try:
                found = self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, LineasError):
                    raise error.cause from None
                raise
            except self._ray.exceptions.RayError as error:
                self._replace(worker, at, "" if at is None else described(cells[at]), error)
                if at is not None:
                    waiting.appendleft(at)
                continue
            self._idle.append(worker)
            self._losses.pop(at, None)
            if at is not None:
                left -= 1
                for line in found.log:
                    self._tell(line)
                yield cells[at], found.rows

    def dismiss(self) -> None:
        """Kill all workers, even busy ones."""
        for worker in self._all:
            self._ray.kill(worker)

    def _start(self) -> None:
        worker = self._worker.remote(self._job)
        self._all.add(worker)
        # Only workers that have loaded get cells, so that no cell waits for an unscheduled worker.
        self._busy[worker.load.remote()] = worker, None

    def _replace(self, worker: Any, at: int | None, cell: str, error: Exception) -> None:
        self._losses[at] += 1
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        doing = f"measured {cell}" if cell else f"loaded {self._job.model}"
        if self._losses[at] == MAX_LOSSES:
            raise ModelError(
                f"{MAX_LOSSES} workers ended while they {doing} ({reason}). Memory may be short: "
                "start fewer workers, or measure less at once."
            )
        self._tell(f"a worker was lost while it {doing}; another one takes over")
        # It may still be running, but unreachable.
        self._ray.kill(worker)
        self._all.remove(worker)
        self._start()


def measure_with(
    table: Table, bench: Bench, sizes: Any, seeds: Sequence[int], *, workers: int, device: str
) -> pd.DataFrame:
    """`table.measure`, with the cells measured by Ray workers that load `bench.model` themselves.

    They run on the cluster that RAY_ADDRESS names or this host belongs to, else on this host. The
    GPUs and cores are divided among them.

    Args:
        table: from `find_table`.
        bench: all hosts must see its folder under the same path. Its own model is not run.
        sizes: of the table.
        seeds: of the table.
        workers: number of workers, >= 1.
        device: each worker's device, as for `load_model`.

    Raises:
        ConfigError: `workers` is out of range, or Ray is not installed.
        ModelError: the workers cannot load the model, or a cell ends every worker that tries it.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}; it must be 1 or more.")
    folder, here = bench.folder.resolve(), Path.cwd()
    job = Job(table.name, sizes, seeds, bench.model.id, device, folder, here)
    with _cluster() as ray:
        crew = _Crew(ray, job, workers, bench.tell)
        try:
            spread = _HandsOut(bench.model, bench.folder, bench.tell, crew=crew)
            return table.measure(spread, sizes, seeds)
        finally:
            crew.dismiss()


@contextmanager
def _cluster() -> Iterator[Any]:
    """Connect to Ray; disconnect afterwards unless it was already connected."""
    # Opt out of Ray's usage statistics, which it sends by default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            "workers are processes of Ray, which is not installed; "
            "run pip install 'lineas-studio[scale]'."
        ) from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Cannot reach a Ray cluster ({error}). Check RAY_ADDRESS, or unset it to run the "
            "workers on this host."
        ) from error
    try:
        # Ray reports lost workers on standard output, which is only for results.
        with redirect_stdout(sys.stderr):
            yield ray
    finally:
        ray.shutdown()


def _shares(ray: Any, workers: int, device: str) -> dict[str, float]:
    """The resources that each worker requests from the cluster."""
    there = ray.cluster_resources()
    shares = {"num_cpus": max(1, int(there.get("CPU", 1)) // workers), "num_gpus": 0.0}
    gpus = int(there.get("GPU", 0))
    if gpus and device != "cpu":
        # Divide each GPU among a whole number of workers, so that all of them can be scheduled.
        shares["num_gpus"] = 1 / -(-workers // gpus)
    return shares
