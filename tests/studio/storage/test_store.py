from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import lineas_core as lc
from lineas_core.diagnostics.report import HealthReport, SiteDeltas
from lineas_core.studio.storage.rows import fields_of, health_from_json, health_to_json
from lineas_core.studio.storage.schema import MIGRATIONS, migrate
from lineas_core.studio.storage.store import JobRow, MapRow, PromptRow, Status, Store, StoreError

HEALTH = HealthReport(
    training=SiteDeltas({"a": 0.1, "b": 1 / 3}, {"a": 1e-300, "b": 0.0}),
    held_out=SiteDeltas({"a": 2.0}, {"a": 1.0}),
    support=0.25,
    largest_gain=1.5,
    largest_shift=float("inf"),
    surprise=(10.6, 15.9),
    verdict="healthy",
    advice="Ünïcode “quoted”\n\U0001f600",
)


class Clock:
    """Seconds since 1970, one more at each look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "studio.db", clock=Clock())
    yield store
    store.close()


@pytest.fixture
def job(prompts: lc.PromptSet) -> Callable[..., JobRow]:
    def make(owner: str = "ada", **fields: object) -> JobRow:
        named = {"id": uuid.uuid4().hex, "owner": owner, "model": "m", "prompts": prompts, **fields}
        return JobRow(**named)  # type: ignore[arg-type]

    return make


def a_map(owner: str = "ada", **fields: object) -> MapRow:
    named = {"title": "A map", "model": "m", "modality": "text", "digest": "d", "support": 0.5}
    return MapRow(**{"id": uuid.uuid4().hex, "owner": owner, **named, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "report",
    [HEALTH, replace(HEALTH, held_out=None, surprise=None, verdict="no effect")],
)
def test_health_goes_through_json_unchanged(report: HealthReport) -> None:
    assert health_from_json(health_to_json(report)) == report


def test_every_field_of_a_job_comes_back(store: Store, job: Callable[..., JobRow]) -> None:
    parent, kept = store.add_job(job()), store.add_map(a_map())
    full = job(
        seq=7, status="failed", phase="checking", title="T", changes={"rate": 0.1, "sites": "x"},
        preview_prompt="Once", step=3, steps=9, loss=1 / 3, seconds=1.5, seconds_left=2.5,
        support=1e-9, losses=(1 / 3, 2.0, float("inf")), supports=(1.0, 0.5, 0.0), attempts=2,
        parent=parent.id, map_id=kept.id, message="why", health=HEALTH, frames=4, stopping=True,
        started=5.0, finished=6.0, method="mean-act", interruptions=3,
    )  # fmt: skip
    plain = job()
    changed = [n for n, v in fields_of(full).items() if v != getattr(plain, n)]
    assert set(changed) | {"owner", "model", "prompts", "created"} == set(fields_of(full))
    added = store.add_job(full)
    assert added == replace(full, created=added.created)
    assert store.job(full.id) == added
    # A column may hold what an older version left: the schema and the row name the same fields.
    with sqlite3.connect(store.path) as db:
        columns = {column[1] for column in db.execute("PRAGMA table_info(jobs)")}
    db.close()
    assert columns == {"number", *fields_of(full)}


def test_maps_and_prompt_sets_come_back(store: Store, prompts: lc.PromptSet) -> None:
    full = a_map(
        tags=("a", "ü,\n"), method="lineas", name="n", concept="c", recommended=0.7, health=HEALTH,
        prompts=replace(prompts, title="“T”"), config={"steps": 3}, losses=(0.1,), created=3.0,
        deleted=4.0, seed=5,
    )  # fmt: skip
    assert store.map(store.add_map(full).id) == full
    row = store.add_prompts(PromptRow("p", "ada", prompts))
    assert store.prompts("p") == row
    assert row.prompts == prompts
    assert row.created > 0


def test_a_database_opened_again_holds_what_it_held(
    store: Store, job: Callable[..., JobRow]
) -> None:
    added, secret = store.add_job(job()), store.secret()
    other = Store(store.path)
    assert other.job(added.id) == added
    assert other.secret() == secret == store.secret()
    assert len(secret) == 64
    other.close()


@pytest.mark.parametrize(("wal", "mode"), [(True, "wal"), (False, "delete")])
def test_network_folders_get_no_write_ahead_log(tmp_path: Path, wal: bool, mode: str) -> None:
    store = Store(tmp_path / "new" / "studio.db", wal=wal)
    db = sqlite3.connect(store.path)
    assert db.execute("PRAGMA journal_mode").fetchone() == (mode,)
    db.close()
    store.close()
    assert [p.name for p in store.path.parent.iterdir()] == ["studio.db"]


def race(count: int, act: Callable[[int], object]) -> list[object]:
    """What `act` gives in each of `count` threads that start at once."""
    results: list[object] = [None] * count
    barrier = threading.Barrier(count)

    def run(index: int) -> None:
        barrier.wait()
        results[index] = act(index)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("connections", [1, 8])
def test_one_of_eight_wins_a_transition(
    tmp_path: Path, job: Callable[..., JobRow], connections: int
) -> None:
    stores = [Store(tmp_path / "studio.db") for _ in range(connections)]
    statuses: tuple[Status, ...] = ("running", "cancelled", "failed", "interrupted")
    for _ in range(10):
        added = stores[0].add_job(job()).id

        def act(index: int, job_id: str = added) -> bool:
            to = statuses[index % 4]
            return stores[index % connections].transition(
                job_id, {"queued"}, to, message=str(index)
            )

        won = race(8, act)
        assert sorted(map(bool, won)) == [False] * 7 + [True]
        row = stores[0].job(added)
        winner = won.index(True)
        assert row is not None
        assert (row.status, row.message, row.seq) == (statuses[winner % 4], str(winner), 2)
    for store in stores:
        store.close()


@pytest.mark.parametrize("connections", [1, 8])
def test_a_job_is_claimed_once(
    tmp_path: Path, job: Callable[..., JobRow], connections: int
) -> None:
    stores = [Store(tmp_path / "studio.db") for _ in range(connections)]
    ids = {stores[0].add_job(job()).id for _ in range(5)}
    claimed = [row for row in race(8, lambda i: stores[i % connections].claim_next()) if row]
    assert {row.id for row in claimed} == ids  # type: ignore[attr-defined]
    assert len(claimed) == 5
    for store in stores:
        store.close()


def test_a_claimed_job_is_the_oldest_and_runs(store: Store, job: Callable[..., JobRow]) -> None:
    first, second = store.add_job(job(message="waits")), store.add_job(job("bob"))
    assert [store.position(j.id) for j in (first, second)] == [1, 2]
    claimed = store.claim_next()
    assert claimed == store.job(first.id)
    assert claimed is not None
    assert (claimed.status, claimed.phase, claimed.attempts) == ("running", "loading", 1)
    assert (claimed.seq, claimed.message) == (2, "")
    assert claimed.started > first.created
    assert [store.position(j.id) for j in (first, second)] == [0, 1]
    store.transition(first.id, {"running"}, "queued")
    again = store.claim_next()
    assert again is not None
    assert (again.id, again.attempts, again.started) == (first.id, 2, claimed.started)
    assert store.claim_next() is not None
    assert store.claim_next() is None


def test_what_is_over_stays_as_it_is(store: Store, job: Callable[..., JobRow]) -> None:
    for end in ("done", "failed", "cancelled"):
        added = store.add_job(job())
        store.claim_next()
        store.progress(added.id, phase="checking")
        assert store.transition(added.id, {"running"}, end, message="over")  # type: ignore[arg-type]
        ended = store.job(added.id)
        assert ended is not None
        assert (ended.status, ended.phase) == (end, "")
        assert ended.finished > added.created
        every = ("queued", "running", "interrupted")
        assert not store.transition(added.id, every, "queued")  # type: ignore[arg-type]
        assert not store.progress(added.id, step=5)
        assert not store.ask_to_stop(added.id)
        assert store.job(added.id) == ended
        with pytest.raises(ValueError, match="for good"):
            store.transition(added.id, {end}, "queued")  # type: ignore[arg-type]
    assert not store.transition("no such job", {"queued"}, "running")
    with pytest.raises(ValueError, match="no field 'stepz'"):
        store.progress("x", stepz=1)


def test_progress_is_of_running_jobs_and_raises_seq(
    store: Store, job: Callable[..., JobRow]
) -> None:
    added = store.add_job(job())
    assert not store.progress(added.id, step=1)
    store.claim_next()
    assert store.seconds_a_step("m") is None
    for step in (1, 2, 3):
        assert store.progress(added.id, step=step, seconds=step * 0.5, losses=(0.5,) * step)
    row = store.job(added.id)
    assert row is not None
    assert (row.step, row.losses, row.seq) == (3, (0.5, 0.5, 0.5), 5)
    assert store.seconds_a_step("m") == pytest.approx(0.5)
    assert store.seconds_a_step("other") is None


def test_a_job_that_was_asked_to_stop_comes_first_and_stays_asked(
    store: Store, job: Callable[..., JobRow]
) -> None:
    first, second = store.add_job(job()), store.add_job(job())
    assert not store.stop_asked(second.id)
    assert store.ask_to_stop(second.id)
    assert store.stop_asked(second.id)
    assert not store.stop_asked(first.id)
    assert [store.position(j.id) for j in (first, second)] == [2, 1]
    claimed = store.claim_next()
    assert claimed is not None
    assert (claimed.id, claimed.stopping) == (second.id, True)
    store.recover()
    assert store.stop_asked(second.id)


def test_jobs_that_ran_when_the_process_died_wait_again_three_times_at_most(
    store: Store, job: Callable[..., JobRow]
) -> None:
    waiting, running, over = (store.add_job(job()) for _ in range(3))
    store.transition(over.id, {"queued"}, "cancelled")
    store.transition(waiting.id, {"queued"}, "interrupted")
    assert store.claim_next() is not None
    before = store.job(running.id)
    assert before is not None
    assert before.status == "running"
    # `waiting` is as if the process had died between the two steps of an earlier recovery.
    assert store.recover(died_of_itself=True) == [running.id, waiting.id]
    row = store.job(running.id)
    assert row is not None
    assert (row.status, row.attempts, row.finished) == ("queued", 1, 0.0)
    assert "restart" in row.message
    assert row.seq == before.seq + 2
    assert store.recover(died_of_itself=True) == []
    store.transition(waiting.id, {"queued"}, "cancelled")
    for attempt in (2, 3):
        claimed = store.claim_next()
        assert claimed is not None
        assert claimed.attempts == attempt
        assert store.recover(died_of_itself=True) == ([running.id] if attempt == 2 else [])
    row = store.job(running.id)
    assert row is not None
    assert row.status == "failed"
    assert "3 times" in row.message
    assert row.finished > 0
    assert store.claim_next() is None


def test_rows_are_listed_for_their_owner_only(store: Store, job: Callable[..., JobRow]) -> None:
    mine = [store.add_job(job("ada")).id for _ in range(3)]
    other = store.add_job(job("bob")).id
    assert [row.id for row in store.jobs("ada")] == mine[::-1]
    assert [row.id for row in store.jobs("ada", limit=2)] == mine[:0:-1]
    assert [row.id for row in store.unfinished("bob")] == [other]
    assert len(store.unfinished()) == 4
    kept = store.add_map(a_map("ada"))
    assert store.maps("bob") == []
    assert not store.change_map(kept.id, "bob", title="mine now")
    assert store.change_map(kept.id, "ada", title="still mine")
    assert [row.title for row in store.maps("ada")] == ["still mine"]


def test_a_map_that_is_removed_leaves_its_job(store: Store, job: Callable[..., JobRow]) -> None:
    added = store.add_job(job())
    kept = store.add_map(a_map(job=added.id))
    assert store.map_of_job(added.id) == kept
    store.claim_next()
    store.transition(added.id, {"running"}, "done", map_id=kept.id)
    store.remove_map(kept.id)
    row = store.job(added.id)
    assert row is not None
    assert (row.status, row.map_id) == ("done", "")
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.add_map(a_map(job="no such job"))


def version_of(path: Path) -> int:
    db = sqlite3.connect(path)
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    db.close()
    return version


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "studio.db"
    path.touch()
    Store(path).close()
    assert version_of(path) == len(MIGRATIONS)


def test_a_database_of_version_1_is_brought_forward_with_its_rows(
    tmp_path: Path, job: Callable[..., JobRow]
) -> None:
    path = tmp_path / "studio.db"
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, MIGRATIONS[:1])
    db.close()
    assert version_of(path) == 1
    store = Store(path)
    added = store.add_job(job())
    store.close()
    later = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN stars INTEGER NOT NULL DEFAULT 3",))
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, later)
    assert db.execute("SELECT id, stars FROM jobs").fetchall() == [(added.id, 3)]
    migrate(db, later)
    db.close()
    assert version_of(path) == len(MIGRATIONS) + 1
    with pytest.raises(StoreError, match=f"version {len(MIGRATIONS) + 1}.*Update"):
        Store(path)


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, job: Callable[..., JobRow]
) -> None:
    path = tmp_path / "studio.db"
    store = Store(path)
    added = store.add_job(job())
    store.close()
    db = sqlite3.connect(path, isolation_level=None)
    broken = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN stars INTEGER", "DROP TABLE nothing"))
    with pytest.raises(sqlite3.OperationalError, match="nothing"):
        migrate(db, broken)
    assert "stars" not in {column[1] for column in db.execute("PRAGMA table_info(jobs)")}
    db.close()
    assert version_of(path) == len(MIGRATIONS)
    store = Store(path)
    assert store.job(added.id) == added
    store.close()


def test_a_damaged_file_is_named_with_the_remedy(
    tmp_path: Path, job: Callable[..., JobRow]
) -> None:
    path = tmp_path / "studio.db"
    path.write_bytes(b"This is no database. " * 500)
    with pytest.raises(StoreError, match=r"studio\.db is damaged.*Start again"):
        Store(path)
    path.unlink()
    store = Store(path, wal=False)
    for _ in range(50):
        store.add_job(job())
    store.close()
    data = bytearray(path.read_bytes())
    # The header stays whole, so that the damage shows only when rows are read.
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    with closing(Store(path)) as store, pytest.raises(StoreError, match="is damaged"):
        store.jobs("ada")
    folder = tmp_path / "folder.db"
    folder.mkdir()
    with pytest.raises(StoreError, match="cannot be used"):
        Store(folder)
    with pytest.raises(StoreError, match="There can be no database"):
        Store(path / "below a file" / "studio.db")
