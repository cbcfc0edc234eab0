"""A disk that is full, and a folder that cannot be written: said by name, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import lineas_core as lc
from lineas_core.studio.storage.disk import is_full
from lineas_core.studio.storage.recovery.backups import backups
from lineas_core.studio.storage.recovery.recovery import open_state
from lineas_core.studio.storage.store import JobRow, Store
from tests.helpers.jobs import CHANGES, At, Shop
from tests.studio.storage.test_library import labelled

NOBODY = 65534
ROOM = 3 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    # Lazily: maps that were read may still be in memory, and with them their files.
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until there is no room for another byte."""
    path = folder / "filler"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with suppress(OSError), (folder / "filler2").open("wb", buffering=0) as file:
        while True:
            file.write(b"x")
    return path


def empty(folder: Path) -> None:
    for name in ("filler", "filler2"):
        (folder / name).unlink(missing_ok=True)


def add_jobs(store: Store, owner: str, count: int, prompts: lc.PromptSet) -> None:
    for number in range(count):
        store.add_job(JobRow(f"{owner}{number}", owner, "m", prompts, message="x" * 4000))


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def aside(act: Callable[[], object], before: Callable[[], object]) -> Any:
    """What `act` gives in a forked process, or what it raises in words, after `before` there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before()
            said: object
            try:
                said = act()
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writing, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = json.load(file)
    os.waitpid(child, 0)
    return said


def test_a_full_disk_fails_the_job_by_name_and_spoils_nothing(
    small_disk: Path, tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    shop = Shop(small_disk, tiny)
    priority = At(small_disk)
    jobs = shop.jobs(priority=priority)
    first = shop.library.add_map("ada", labelled(1))
    job = jobs.start("ada", "tiny", prompts, CHANGES)
    priority.act = lambda: fill(small_disk)
    jobs.work()
    full = f"LINEAS_HOME ({small_disk}) is full; free some space"
    with pytest.raises(lc.LineasError) as caught:
        shop.library.add_map("ada", labelled(2))
    assert full in str(caught.value)
    with pytest.raises(lc.LineasError) as caught:
        add_jobs(shop.store, "bob", 200, prompts)
    assert full in str(caught.value)
    assert sound(small_disk / "studio.db")
    row = shop.row(job)
    # Where not even that fits, the row says so as soon as there is room.
    assert row.status in ("running", "failed")
    empty(small_disk)
    for waiting in shop.store.unfinished("bob"):
        shop.store.transition(waiting.id, {"queued"}, "cancelled")
    assert not jobs.work()
    row = shop.row(job)
    assert row.status == "failed"
    assert full in row.message
    assert [r.id for r in shop.library.maps("ada")] == [first.id]
    assert {p.stem for p in (small_disk / "maps").iterdir()} == {first.id}
    again = jobs.retry(job.id, "ada")
    assert jobs.work()
    assert shop.row(again).status == "done"
    assert shop.library.map(first.id, "ada").digest() == first.digest
    shop.store.close()
    assert sound(small_disk / "studio.db")


def test_a_full_disk_at_the_start_is_said_and_costs_no_backup(
    small_disk: Path, prompts: lc.PromptSet
) -> None:
    state = open_state(small_disk)
    add_jobs(state.store, "ada", 60, prompts)
    state.store.close()
    open_state(small_disk).store.close()
    before = backups(small_disk / "backups")
    (small_disk / "studio.db").write_bytes(b"")
    fill(small_disk)
    with pytest.raises(lc.LineasError, match=r"LINEAS_HOME \(.*\) is full; free some space"):
        open_state(small_disk)
    assert backups(small_disk / "backups") == before
    empty(small_disk)
    state = open_state(small_disk)
    assert len(state.store.jobs("ada", 100)) == 60
    state.store.close()


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path, prompts: lc.PromptSet) -> None:
    """As a share of the disk that is used up; runs where nothing can be mounted."""
    state = open_state(tmp_path)
    kept = state.library.add_map("ada", labelled(1))
    state.store.close()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = (tmp_path / "studio.db").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, size + 8192))

    def write() -> object:
        state = open_state(tmp_path)
        add_jobs(state.store, "ada", 400, prompts)
        return "written"

    said = aside(write, limit)
    assert said.startswith("StoreError: LINEAS_HOME"), said
    assert "is full; free some space" in said
    assert sound(tmp_path / "studio.db")
    state = open_state(tmp_path)
    assert state.library.map(kept.id, "ada").digest() == kept.digest
    state.store.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below which others may read: pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="lineas-test-"))
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def unprivileged() -> None:
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


@pytest.mark.parametrize("wal", [True, False])
def test_a_folder_that_cannot_be_written_is_named_and_left_as_it_is(
    open_folder: Path, wal: bool
) -> None:
    home = open_folder / "home"
    state = open_state(home, wal=wal)
    kept = state.library.add_map("ada", labelled(1))
    state.store.close()
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    for path in (home, *home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def write() -> object:
        open_state(home, wal=wal).library.add_map("ada", labelled(2))
        return "written"

    said = aside(write, unprivileged)
    assert said.startswith("StoreError: "), said
    assert str(home / "studio.db") in said
    assert "can be written" in said
    # None at all: neither to be read, nor to be made.
    (open_folder / "closed").mkdir(mode=0o000)
    said = aside(lambda: str(open_state(open_folder / "closed" / "home")), unprivileged)
    assert said.startswith("StoreError: There can be no database"), said
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert {p: p.read_bytes() for p in before} == before
    state = open_state(home, wal=wal)
    assert state.notes == ()
    assert state.library.map(kept.id, "ada").digest() == kept.digest
    state.store.close()


def test_a_maps_folder_that_cannot_be_written_is_named(open_folder: Path) -> None:
    home = open_folder / "home"
    state = open_state(home)
    state.library.add_map("ada", labelled(1))
    state.store.close()
    for path in (home, *home.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (home / "maps").chmod(0o555)

    def write() -> object:
        state = open_state(home)
        try:
            state.library.add_map("ada", labelled(2))
        except lc.MapError as error:
            return [str(error), len(state.library.maps("ada"))]
        return "written"

    message, count = aside(write, unprivileged)
    assert "Let the app write there" in message
    assert count == 1


def test_what_is_full_is_told_from_what_is_not() -> None:
    assert is_full(OSError(28, "No space left on device"))
    assert is_full(sqlite3.OperationalError("database or disk is full"))
    outer = lc.MapError("cannot write")
    outer.__cause__ = OSError(122, "Disk quota exceeded")
    assert is_full(outer)
    assert not is_full(PermissionError(13, "Permission denied"))
    assert not is_full(sqlite3.OperationalError("database is locked"))
    assert not is_full(None)
