"""Random deeds on the queue, two at a time on two threads, against a model in plain Python.

Deeds that overlap may take effect in any order, so each is a row of small steps, and what is seen
must be what some interleaving of the two rows gives.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import lineas_core as lc
from lineas_core.studio.jobs.context import JobContext
from lineas_core.studio.jobs.device.priority import Priority
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.queue import JobError, Jobs
from lineas_core.studio.jobs.run import run_job
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import MAX_ATTEMPTS, Store

pytestmark = pytest.mark.thorough

OWNERS = ("ada", "bob")
MAX_QUEUED, MAX_PER_VISITOR = 4, 3
KEEP, TICK = 1000.0, 60.0
LATE = 0.2
# One that ends well, and one that fails while it is loaded, which takes less time.
MODELS, ODDS = ("tiny", "broken"), (1, 8)
CHANGES: dict[str, Any] = {"batch_size": 4, "holdout": 0.25}
# Jobs that are compared after each step, and that deeds are about; all of them are at the end.
RECENT, ABOUT = 60, 6
ENDED = ("done", "failed", "cancelled")


class Known(NamedTuple):
    """A job, in plain Python."""

    name: int
    owner: str
    model: str
    parent: int | None = None
    status: str = "queued"
    stopping: bool = False
    attempts: int = 0


@dataclass
class World:
    """What there should be: jobs in the order in which they came, and what each deed has given."""

    jobs: dict[int, Known] = field(default_factory=dict)
    said: dict[int, Any] = field(default_factory=dict)

    def copy(self) -> World:
        return World(dict(self.jobs))

    def change(self, name: int, **changes: Any) -> None:
        self.jobs[name] = self.jobs[name]._replace(**changes)

    def open(self, owner: str | None = None) -> list[Known]:
        mine = [job for job in self.jobs.values() if owner in (None, job.owner)]
        return [job for job in mine if job.status in ("queued", "running")]

    def turns(self) -> list[int]:
        """Jobs that wait: first those that are asked to stop, then as they came."""
        waiting = [job for job in self.jobs.values() if job.status == "queued"]
        return [job.name for job in sorted(waiting, key=lambda job: not job.stopping)]

    def claim(self) -> int | None:
        """The job whose turn it is, which runs now."""
        if not (turns := self.turns()):
            return None
        job = self.jobs[turns[0]]
        self.change(job.name, status="running", attempts=job.attempts + 1)
        return job.name


# Changes the world, and says whether its deed is at its end.
Step = Callable[[World], bool]


@dataclass(frozen=True)
class Deed:
    """Something that a visitor or the worker does: in the model, and in fact."""

    steps: list[Step]
    act: Callable[[], Any]


def starting(place: int, job: Known) -> list[Step]:
    def start(world: World) -> bool:
        waiting = sum(job.status != "running" for job in world.open())
        full = len(world.open(job.owner)) >= MAX_PER_VISITOR or waiting >= MAX_QUEUED
        world.said[place] = "full" if full else "queued"
        if not full:
            world.jobs[job.name] = job
        return True

    return [start]


def cancelling(place: int, name: int) -> list[Step]:
    def at_once(world: World) -> bool:
        if world.jobs[name].status == "queued":
            world.change(name, status="cancelled")
            world.said[place] = True
            return True
        return False

    def ask(world: World) -> bool:
        world.said[place] = world.jobs[name].status in ("queued", "running")
        if world.said[place]:
            world.change(name, stopping=True)
        return True

    return [at_once, ask]


def retrying(place: int, job: Known, old: int) -> list[Step]:
    def look(world: World) -> bool:
        if world.jobs[old].status in ("failed", "cancelled"):
            return False
        world.said[place] = "refused"
        return True

    return [look, *starting(place, job)]


def working(place: int) -> list[Step]:
    # Of one interleaving; the first step of the next one sets them anew.
    taken: dict[str, Any] = {}

    def take(world: World) -> bool:
        taken["name"] = world.claim()
        world.said[place] = taken["name"] is not None
        return not world.said[place]

    def load(world: World) -> bool:
        if world.jobs[taken["name"]].model == "broken":
            world.change(taken["name"], status="failed")
            return True
        return False

    def look(world: World) -> bool:
        taken["stops"] = world.jobs[taken["name"]].stopping
        return False

    def end(world: World) -> bool:
        world.change(taken["name"], status="cancelled" if taken["stops"] else "done")
        return True

    return [take, load, look, end]


def outcomes(world: World, deeds: list[Deed]) -> Iterator[World]:
    """What each interleaving of the deeds' small steps gives."""
    turns = [number for number, deed in enumerate(deeds) for _ in deed.steps]
    for order in sorted(set(itertools.permutations(turns))):
        after, rest = world.copy(), [list(deed.steps) for deed in deeds]
        for number in order:
            if rest[number] and rest[number].pop(0)(after):
                rest[number].clear()
        yield after


class Real:
    """The Studio's queue, and the names of its jobs."""

    def __init__(self, home: Path, model: Any, prompts: lc.PromptSet) -> None:
        self.now = 1e9
        self.home, self.prompts, self._model = home, prompts, model
        self.store = Store(home / "studio.db", clock=lambda: self.now)
        self.library = Library(self.store, home / "maps", clock=lambda: self.now)
        self.ids: dict[int, str] = {}
        self._names: dict[str, int] = {"": -1}
        self.restart()

    def restart(self) -> None:
        context = JobContext(self.store, self.library, self._load, Priority(), JobFiles(self.home))
        self.jobs = Jobs(
            context, run_job, autostart=False, max_queued=MAX_QUEUED,
            max_per_visitor=MAX_PER_VISITOR, died_of_itself=True, clock=lambda: self.now,
        )  # fmt: skip

    def start(self, job: Known) -> str:
        return self._queued(
            job.name,
            lambda: (
                self.jobs.start(job.owner, job.model, self.prompts, CHANGES, method="mean-act").id
            ),
        )

    def retry(self, job: Known, old: int) -> str:
        return self._queued(job.name, lambda: self.jobs.retry(self.ids[old], job.owner).id)

    def seen(self, most: int = RECENT) -> list[Known]:
        """The newest jobs of each owner, as they are."""
        return [
            Known(
                self._names[row.id], row.owner, row.model,
                self._names[row.parent] if row.parent else None,
                row.status, row.stopping, row.attempts,
            )
            for owner in OWNERS
            for row in self.store.jobs(owner, most)
        ]  # fmt: skip

    def turns(self) -> list[int]:
        """Jobs that wait, in the order of their turns."""
        return [self._names[row.id] for row in self.store.unfinished() if row.status == "queued"]

    def _queued(self, name: int, act: Callable[[], str]) -> str:
        try:
            self.ids[name] = act()
        except JobError as error:
            return "full" if "is the limit" in str(error) else "refused"
        self._names[self.ids[name]] = name
        return "queued"

    def _load(self, name: str) -> Any:
        if name == "broken":
            raise lc.ModelError("This model cannot be loaded.")
        return self._model


def newest(world: World, most: int = RECENT) -> list[Known]:
    """The same as `Real.seen`, of the model."""
    jobs = list(world.jobs.values())[::-1]
    return [job for owner in OWNERS for job in [j for j in jobs if j.owner == owner][:most]]


def _shown(world: World) -> tuple[list[Known], list[int]]:
    return newest(world), world.turns()


class Driver:
    """Does random deeds, two at a time, and compares."""

    def __init__(self, real: Real, seed: int) -> None:
        self.real, self.dice, self.world = real, random.Random(seed), World()
        self.steps = self.overlaps = 0
        self._names = itertools.count()
        self._over: dict[int, Known] = {}
        self._ended: dict[int, float] = {}
        self._clock_seen = self._clock_since = real.now

    def go(self) -> None:
        """Two deeds at once, or one that nothing else may overlap."""
        self.real.now += self.dice.random() * TICK
        if self.dice.random() < 0.15:
            self.dice.choice((self._restart, self._prune))()
            self.steps += 1
        else:
            self._two()
            self.steps += 2
        assert self._seen() == _shown(self.world)
        for job in self.world.jobs.values():
            if job.status in ENDED:
                self._ended.setdefault(job.name, self.real.now)
        # What is long over is set aside: it is compared again at the end.
        if len(self.world.jobs) > 4 * RECENT:
            for job in list(self.world.jobs.values())[: -3 * RECENT]:
                if job.status in ENDED:
                    self._over[job.name] = self.world.jobs.pop(job.name)

    def all(self) -> list[Known]:
        """All jobs that there should be."""
        return sorted([*self._over.values(), *self.world.jobs.values()])

    def _seen(self) -> tuple[list[Known], list[int]]:
        return self.real.seen(), self.real.turns()

    def _two(self) -> None:
        kinds = self.dice.sample(["work", *self.dice.choices(("start", "cancel", "retry"), k=2)], 2)
        deeds = [self._deed(kind, place) for place, kind in enumerate(kinds)]
        said: dict[int, Any] = {}
        barrier = threading.Barrier(2)
        # Some come while a job is in the midst of its work.
        late = self.dice.random() * LATE if self.dice.random() < 0.3 else 0.0

        def do(place: int) -> None:
            barrier.wait()
            if kinds[place] != "work":
                time.sleep(late)
            said[place] = deeds[place].act()

        threads = [threading.Thread(target=do, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen, possible = self._seen(), list(outcomes(self.world, deeds))
        fitting = [w for w in possible if w.said == said and _shown(w) == seen]
        if not fitting:
            told = "\n".join(f"{w.said} {w.turns()} {newest(w, 4)}" for w in possible)
            saw = f"{said} {self.real.turns()} {self.real.seen(4)}"
            pytest.fail(f"{kinds} gave\n{saw}\nand not one of\n{told}")
        # The first and the last are those of one deed after the other.
        one_after_the_other = [(w.said, _shown(w)) for w in (possible[0], possible[-1])]
        self.overlaps += (said, seen) not in one_after_the_other
        self.world = fitting[0].copy()

    def _deed(self, kind: str, place: int) -> Deed:
        real, dice, name = self.real, self.dice, next(self._names)
        if kind == "work":
            return Deed(working(place), real.jobs.work)
        if kind != "start" and self.world.jobs:
            # Of the newest: the others have ended long ago.
            old = dice.choice(list(self.world.jobs.values())[-ABOUT:])
            if kind == "cancel":
                return Deed(
                    cancelling(place, old.name),
                    lambda: real.jobs.cancel(real.ids[old.name], old.owner),
                )
            again = Known(name, old.owner, old.model, old.name)
            return Deed(retrying(place, again, old.name), lambda: real.retry(again, old.name))
        new = Known(name, dice.choice(OWNERS), dice.choices(MODELS, ODDS)[0])
        return Deed(starting(place, new), lambda: real.start(new))

    def _restart(self) -> None:
        """As after a crash: often in the middle of a job."""
        if self.dice.random() < 0.7:
            self.world.claim()
            self.real.store.claim_next()
        self.real.restart()
        for job in self.world.open():
            if job.status == "running":
                failed = job.attempts >= MAX_ATTEMPTS
                self.world.change(job.name, status="failed" if failed else "queued")

    def _prune(self) -> None:
        """Files of jobs that ended long ago go, and no others."""
        recent = list(self.world.jobs)[-RECENT:]
        folders = {name: JobFiles(self.real.home).frames(self.real.ids[name]) for name in recent}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "0000001.json").write_text("{}")
        if self.real.now - self._clock_seen > KEEP:
            self._clock_since = self.real.now
        self._clock_seen = self.real.now
        steady = self.real.now - self._clock_since >= KEEP
        self.real.jobs.prune(KEEP)
        for name, folder in folders.items():
            old = self._ended.get(name, self.real.now) < self.real.now - KEEP
            assert folder.exists() is not (old and steady), name


@pytest.mark.parametrize("steps", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_queue_is_what_a_plain_model_says(
    tmp_path: Path, tiny: lc.LanguageModel, prompts: lc.PromptSet, steps: int
) -> None:
    real = Real(tmp_path, tiny, prompts)
    real.jobs.prune(KEEP)
    driver = Driver(real, 20260103)
    while driver.steps < steps:
        driver.go()
    assert sorted(real.seen(10**6)) == driver.all()
    assert {job.status for job in driver.all()} >= set(ENDED)
    # What is done has its one map, and nothing else has any.
    for job in driver.all():
        row = real.store.job(real.ids[job.name])
        assert row is not None
        assert bool(row.map_id) is (job.status == "done")
    maps = [row for owner in OWNERS for row in real.library.maps(owner)]
    assert len({row.job for row in maps}) == len(maps)
    print(f"{driver.steps} steps, {len(driver.all())} jobs, {driver.overlaps} true overlaps")
    real.store.close()


def test_the_model_can_tell_a_difference() -> None:
    world = World({0: Known(0, "ada", "tiny")})
    deeds = [Deed(working(0), lambda: None), Deed(cancelling(1, 0), lambda: None)]
    ends = {(w.jobs[0].status, w.jobs[0].stopping) for w in outcomes(world, deeds)}
    assert ends == {("done", False), ("cancelled", False), ("cancelled", True), ("done", True)}
    assert replace(world).jobs[0].status == "queued"
