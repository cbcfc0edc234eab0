"""What is damaged is set aside, and nothing that was kept is lost."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

import lineas_core as lc
from lineas_core.studio.jobs.context import JobContext
from lineas_core.studio.jobs.device.priority import Priority
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.queue import Jobs
from lineas_core.studio.jobs.run import run_job
from lineas_core.studio.storage.recovery.backups import KEPT, backups
from lineas_core.studio.storage.recovery.integrity import flaw_of
from lineas_core.studio.storage.recovery.recovery import State, open_state
from lineas_core.studio.storage.rows import fields_of, row_from_json, row_to_json
from lineas_core.studio.storage.sidecars import write_row
from lineas_core.studio.storage.store import JobRow, PromptRow, StoreError
from tests.studio.storage.test_library import labelled
from tests.studio.storage.test_store import HEALTH

DAY = 86_400.0
NOON = datetime(2026, 3, 4, 12).timestamp()


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def rows_of(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Table -> id -> what is kept of it, read by SQLite alone."""
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        found: dict[str, dict[str, dict[str, object]]] = {
            table: {r["id"]: dict(r) for r in db.execute(f"SELECT * FROM {table}")}
            for table in ("jobs", "maps", "prompt_sets")
        }
    return found


def fill(state: State, prompts: lc.PromptSet, name: str, count: int) -> None:
    """Rows of each kind, and maps with their files, for two owners."""
    store, library = state.store, state.library
    for i in range(count):
        parent = store.add_job(JobRow(f"{name}-first-{i}", "ada", "m", prompts, status="failed"))
        job = store.add_job(JobRow(f"{name}-job-{i}", "ada", "m", prompts, parent=parent.id))
        row = library.add_map(
            "ada", labelled(i), title=f"Map {name} {i}", tags=["x"], prompts=prompts,
            health=HEALTH, losses=[2.0, 1.0], job=job.id,
        )  # fmt: skip
        ends = {"map_id": row.id, "losses": (2.0, 1.0), "health": HEALTH}
        store.transition(job.id, {"queued"}, "done", **ends)
        store.add_job(JobRow(f"{name}-waits-{i}", "bob", "m", prompts, message="äöü" * 500))
        library.add_prompts("bob", replace(prompts, name=f"{name}{i}"))
    kept = library.add_map("bob", labelled(99), title=f"{name} of Bob")
    gone = library.add_map("bob", labelled(98), title=f"{name} deleted")
    library.rename(kept.id, "bob", f"{name} renamed by Bob")
    library.delete(gone.id, "bob")


def garble(path: Path, at: int, length: int, seed: float) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + length] = random.Random(seed).randbytes(length)
    path.write_bytes(data)


def page_size(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA page_size").fetchone()[0])


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def overwrite_pages(path: Path) -> None:
    """Three pages, each of another table's contents or of an overlong row's."""
    size = page_size(path)
    for seed in range(3):
        page = random.Random(seed).randrange(2, path.stat().st_size // size)
        garble(path, page * size, size, seed)


def corrupt_index(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'jobs_by_owner'"
        ).fetchone()
    size = page_size(path)
    # The entries at its end; the page still is one of an index.
    garble(path, page * size - 40, 40, 0)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "things").mkdir(parents=True)


# Name -> what is done to the file, and whether rows that no backup has can still be read.
DAMAGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "cut to nothing": (lambda path: path.write_bytes(b""), False),
    "cut in half": (lambda path: cut(path, 0.5), False),
    "header": (lambda path: garble(path, 0, 100, 1), False),
    "pages": (overwrite_pages, False),
    "magic": (lambda path: garble(path, 0, 16, 2), False),
    "table dropped": (lambda path: run(path, "DROP TABLE prompt_sets"), False),
    "column missing": (lambda path: run(path, "ALTER TABLE jobs DROP COLUMN message"), False),
    "log": (lambda path: path.with_name("studio.db-wal").write_bytes(b"\x07" * 9000), True),
    "index": (corrupt_index, True),
    "folder": (replace_by_folder, False),
    "text": (lambda path: path.write_text("My notes.\n" * 400), False),
    "gone": (lambda path: path.unlink(), False),
    "foreign key": (lambda path: run(path, "UPDATE maps SET job = 'x' WHERE job IS NULL"), True),
    "unreadable row": (
        lambda path: run(path, "UPDATE jobs SET prompts = '{' WHERE owner = 'bob'"), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_loses_nothing(
    tmp_path: Path, prompts: lc.PromptSet, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "studio.db", Clock()
    state = open_state(tmp_path, clock=clock)
    fill(state, prompts, "early", 12)
    secret = state.store.secret()
    state.store.close()
    clock.now += DAY
    state = open_state(tmp_path, clock=clock)
    assert state.notes == ()
    backed_up = rows_of(backups(tmp_path / "backups")[0])
    fill(state, prompts, "late", 2)
    # Changes since the backup: of a map, which its record tells, and of a job.
    changed = state.library.maps("ada", include_gallery=False)[-1]
    state.library.rename(changed.id, "ada", "Renamed since")
    state.store.transition("early-waits-0", {"queued"}, "cancelled")
    state.store.close()
    before = rows_of(path)
    backed_up["jobs"].pop("early-waits-0")
    assert set(before["jobs"]) > set(backed_up["jobs"])

    harm, readable = DAMAGES[damage]
    harm(path)
    left = path.read_bytes() if path.is_file() else b""
    caplog.clear()
    state = open_state(tmp_path, clock=clock)
    assert "studio.db was damaged (" in state.notes[0]
    assert state.notes[0] in caplog.text
    after = rows_of(path)
    for table in before:
        must = before[table] if readable or table == "maps" else backed_up[table]
        assert set(must) <= set(after[table]) <= set(before[table]), table
        for row_id in must:
            # Of a row that is in none but the damaged file, a damaged part cannot come back.
            known, found = dict(before[table][row_id]), after[table][row_id]
            for name in ("number", *(("job",) if not readable else ())):
                known.pop(name, None), found.pop(name, None)
            assert found == known, (table, row_id)
    assert state.store.secret() == secret
    for owner, count in (("ada", 14), ("bob", 2)):
        rows = state.library.maps(owner, include_gallery=False)
        assert len(rows) == count
        assert all(state.library.map(row.id, owner).digest() == row.digest for row in rows)
    # What was damaged is still there, as it was.
    aside = list(tmp_path.glob("studio-damaged-*.db"))
    if damage == "gone":
        assert aside == []
    elif damage == "folder":
        assert (aside[0] / "things").is_dir()
    else:
        assert [p.read_bytes() for p in aside] == [left]
    state.store.add_job(JobRow("new", "ada", "m", prompts))
    state.store.close()
    assert flaw_of(path) == ""
    again = open_state(tmp_path, clock=clock)
    assert again.notes == ()
    assert again.store.job("new") is not None
    again.store.close()


def test_a_database_of_a_newer_version_is_left_as_it_is(
    tmp_path: Path, prompts: lc.PromptSet
) -> None:
    state = open_state(tmp_path)
    fill(state, prompts, "x", 1)
    state.store.close()
    later = "ALTER TABLE maps ADD COLUMN stars INTEGER NOT NULL DEFAULT 3"
    run(tmp_path / "studio.db", later, "PRAGMA user_version = 99")
    before = (tmp_path / "studio.db").read_bytes()
    with pytest.raises(StoreError, match="has version 99.*Update lineas_core"):
        open_state(tmp_path)
    assert (tmp_path / "studio.db").read_bytes() == before
    assert backups(tmp_path / "backups") == []


def test_without_a_backup_maps_and_unfinished_jobs_come_back_by_what_lies_beside_them(
    tmp_path: Path, prompts: lc.PromptSet
) -> None:
    state = open_state(tmp_path)
    fill(state, prompts, "x", 3)
    before, secret = rows_of(tmp_path / "studio.db"), state.store.secret()
    going = JobRow("going", "ada", "m", prompts, changes={"steps": 9}, step=3, attempts=1)
    write_row(JobFiles(tmp_path).sidecar("going"), state.store.add_job(going))
    state.store.close()
    (tmp_path / "studio.db").write_bytes(b"")
    labelled(5).save(tmp_path / "maps" / "stray.safetensors")
    labelled(6).save(tmp_path / "maps" / "another.safetensors")
    # A record about another map than the one beside it tells nothing of whose that is.
    kept = next(iter(before["maps"]))
    record = json.loads((tmp_path / "maps" / f"{kept}.json").read_text())
    (tmp_path / "maps" / "another.json").write_text(json.dumps({**record, "id": "another"}))
    (tmp_path / "maps" / "lonely.json").write_text(json.dumps({**record, "id": "lonely"}))
    (tmp_path / "checkpoints" / "junk.json").write_text("junk")

    state = open_state(tmp_path)
    assert "In its place is a new one" in state.notes[0]
    assert "1 unfinished training job" in state.notes[1]
    assert "7 maps found again by the files, 2 of which" in state.notes[2]
    after = rows_of(tmp_path / "studio.db")
    for map_id, known in before["maps"].items():
        found = after["maps"][map_id]
        for name in ("number", "job"):
            known.pop(name, None), found.pop(name, None)
        assert found == known
    for stray in ("stray", "another"):
        assert state.store.map(stray).owner == ""  # type: ignore[union-attr]
        with pytest.raises(lc.MapError, match="no map"):
            state.library.map(stray, "")
    assert not (tmp_path / "maps" / "lonely.json").exists()
    job = state.store.job("going")
    assert job is not None
    assert (job.status, job.owner, job.changes, job.step) == ("queued", "ada", {"steps": 9}, 3)
    assert "Found again" in job.message
    assert state.store.secret() == secret
    state.store.close()


def test_a_nobodys_map_is_shown_to_nobody(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    row = state.library.add_map("ada", labelled(1))
    state.store.close()
    (tmp_path / "studio.db").unlink()
    (tmp_path / "maps" / f"{row.id}.json").unlink()
    state = open_state(tmp_path)
    assert "1 of which nobody is known to own" in state.notes[-1]
    assert state.library.maps("ada", include_gallery=False) == []
    state.store.close()


@pytest.mark.parametrize("moment", ["both", "log left"])
def test_a_mending_that_was_cut_off_is_brought_to_its_end(
    tmp_path: Path, prompts: lc.PromptSet, moment: str
) -> None:
    state = open_state(tmp_path)
    fill(state, prompts, "x", 2)
    state.store.close()
    path = tmp_path / "studio.db"
    before = rows_of(path)
    # As the process leaves it that dies between the two renamings.
    path.rename(tmp_path / "studio.db.new")
    if moment == "log left":
        (tmp_path / "studio.db-wal").write_bytes(b"\x07" * 9000)
    state = open_state(tmp_path)
    assert "brought to an end" in state.notes[0]
    state.store.close()
    assert rows_of(path) == before
    if moment == "log left":
        [aside] = tmp_path.glob("studio-damaged-*-wal")
        assert aside.read_bytes() == b"\x07" * 9000


def test_what_a_kill_leaves_is_no_damage(tmp_path: Path, prompts: lc.PromptSet) -> None:
    """The log of a process that died holds what it had done; so it does with a rollback journal."""
    for wal in (True, False):
        home = tmp_path / str(wal)
        state = open_state(home, wal=wal)
        fill(state, prompts, "x", 2)
        # Copied while it is open, as if the process had died.
        left = tmp_path / f"left {wal}"
        left.mkdir()
        for file in home.glob("studio.*"):
            (left / file.name).write_bytes(file.read_bytes())
        before = rows_of(home / "studio.db")
        state.store.close()
        assert (left / "studio.db-wal").exists() is wal
        main = (left / "studio.db").read_bytes()
        assert flaw_of(left / "studio.db") == ""
        assert (left / "studio.db").read_bytes() == main
        again = open_state(left, wal=wal)
        assert not any("damaged" in note for note in again.notes)
        again.store.close()
        assert rows_of(left / "studio.db")["jobs"] == before["jobs"]


def test_there_is_one_backup_a_day_and_the_newest_few_are_kept(
    tmp_path: Path, prompts: lc.PromptSet
) -> None:
    clock = Clock()

    def names() -> list[str]:
        open_state(tmp_path, clock=clock).store.close()
        return [path.name for path in backups(tmp_path / "backups")]

    assert names() == []  # There was nothing yet.
    assert names() == names() == ["studio-000001-2026-03-04.db"]
    clock.now += DAY
    assert names() == ["studio-000002-2026-03-05.db", "studio-000001-2026-03-04.db"]
    # A clock that is set back makes newer backups, not older ones.
    clock.now -= 400 * DAY
    assert names()[0] == "studio-000003-2025-01-29.db"
    for _ in range(KEPT + 2):
        clock.now += DAY
        found = names()
    assert len(found) == KEPT == len(list((tmp_path / "backups").iterdir()))
    assert found[0].startswith("studio-000012-")
    # A backup that is damaged is passed over.
    state = open_state(tmp_path, clock=clock)
    state.store.add_prompts(PromptRow("p", "ada", prompts))
    state.store.close()
    clock.now += DAY
    names()
    clock.now += DAY
    newest = tmp_path / "backups" / names()[0]
    newest.write_bytes(b"\0" * 5000)
    (tmp_path / "studio.db").unlink()
    state = open_state(tmp_path, clock=clock)
    assert "studio-000013-" in state.notes[0]
    assert state.store.prompts("p") is not None
    state.store.close()


def test_a_row_goes_through_its_record_unchanged(prompts: lc.PromptSet) -> None:
    job = JobRow("j", "ada", "m", prompts, losses=(1 / 3, float("inf")), health=HEALTH, parent="p")
    assert row_from_json(JobRow, row_to_json(job)) == job
    for text in ("", "[]", "{}", '{"id": 3}', "null", row_to_json(job).replace('"losses"', '"x"')):
        with pytest.raises(ValueError, match="JobRow|JSON|Expecting"):
            row_from_json(JobRow, text)
    assert "losses" in fields_of(job)


def test_a_clock_that_jumps_deletes_nothing(tmp_path: Path, prompts: lc.PromptSet) -> None:
    clock, month = Clock(), 30 * DAY
    state = open_state(tmp_path, clock=clock)
    store, library = state.store, state.library
    files = JobFiles(tmp_path)
    context = JobContext(store, library, lambda name: None, Priority(), files)  # type: ignore[arg-type,return-value]
    jobs = Jobs(context, run_job, autostart=False, clock=clock, max_queued=9, max_per_visitor=9)
    job = jobs.start("ada", "m", prompts, {})
    for path in (files.checkpoint(job.id), files.frames(job.id) / "0000001.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    jobs.cancel(job.id, "ada")
    row = library.add_map("ada", labelled(1))
    library.delete(row.id, "ada")

    def gone() -> tuple[bool, bool]:
        jobs.prune(month)
        library.purge(month)
        return not JobFiles(tmp_path).checkpoint(job.id).exists(), store.map(row.id) is None

    assert gone() == (False, False)
    clock.now += 3650 * DAY  # A battery fails, and the clock says something else.
    assert gone() == gone() == (False, False)
    clock.now -= 3650 * DAY
    assert gone() == (False, False)
    clock.now -= 9000 * DAY
    assert gone() == (False, False)
    early = jobs.start("ada", "m", prompts, {})
    jobs.cancel(early.id, "ada")
    ended = store.job(early.id)
    assert ended is not None
    assert ended.finished
    # The order is that in which they came, whatever the clock said.
    assert [job.id for job in jobs.recent("ada")] == [early.id, job.id]
    clock.now += 9000 * DAY
    for _ in range(4):
        assert gone() == (False, False)
        clock.now += 10 * DAY
    assert gone() == (True, True)
    store.close()
