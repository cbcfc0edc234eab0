"""Open LINEAS_HOME: check the database, repair it if it is damaged, and back it up.

Nothing is deleted. A damaged database is renamed; its readable rows are added to a copy of the
newest sound backup, or to a new database. Maps are restored from the sidecars beside their files,
unfinished jobs from those beside their checkpoints. A folder without a database is filled from the
bucket first, if there is one.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.recovery.backups import back_up, backups, newest_sound
from lineas_core.studio.storage.recovery.bucket import (
    BACKUPS,
    DATABASE,
    SECRET,
    check_same_secret,
    read_secret,
    restore,
)
from lineas_core.studio.storage.recovery.integrity import BESIDE, flaw_of
from lineas_core.studio.storage.recovery.salvage import rebuild
from lineas_core.studio.storage.schema import store_errors
from lineas_core.studio.storage.sidecars import read_row
from lineas_core.studio.storage.store import JobRow, Store
from lineas_core.system.files import write_whole
from lineas_core.system.words import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """The opened contents of LINEAS_HOME.

    Attributes:
        store: the database.
        library: the maps and prompt sets.
        notes: messages for the user about what was repaired; also written to the log.
    """

    store: Store
    library: Library
    notes: tuple[str, ...] = ()


def open_state(
    home: Path,
    *,
    bucket: Path | None = None,
    wal: bool = True,
    gallery: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> State:
    """Open the database and the library of a folder that no other process uses.

    Args:
        home: the folder; created if missing.
        bucket: folder with copies of it, if any.
        wal: as for `Store`.
        gallery: as for `Library`.
        clock: returns the time in seconds since 1970.

    Raises:
        StoreError: the folder cannot be read or written, or is full; the database has a newer
            version; or the bucket cannot be read, or is another folder's. Nothing was changed.
    """
    path = home / DATABASE
    with store_errors(path):
        home.mkdir(parents=True, exist_ok=True)
        restored = bucket is not None and restore(bucket, home)
        notes = _mend(path, clock, bucket if restored else None)
        if path.exists() and path.stat().st_size:
            back_up(path, home / BACKUPS, _day(clock))
    store = Store(path, wal=wal, clock=clock)
    try:
        library = Library(store, home / "maps", gallery=gallery, clock=clock)
        with store_errors(path):
            secret = _keep_secret(store, home / SECRET)
            if bucket is not None:
                check_same_secret(bucket, secret)
            jobs = _find_jobs(store, home / "checkpoints")
            found = library.rescan(mended=restored or bool(notes))
    except BaseException:
        store.close()
        raise
    if jobs:
        were = "was" if jobs == 1 else "were"
        notes.append(
            f"{counted(jobs, 'unfinished training job')} {were} found again by "
            f"{'its checkpoint' if jobs == 1 else 'their checkpoints'}."
        )
    if found:
        lost = sum(not row.owner for row in found)
        note = f"{counted(len(found), 'map')} found again by the files"
        if lost:
            note += f", {lost} of which nobody is known to own: import them from the folder maps"
        notes.append(f"{note}.")
    for note in notes:
        log.warning(note)
    return State(store, library, tuple(notes))


def _mend(path: Path, clock: Callable[[], float], bucket: Path | None) -> list[str]:
    """Repair the database if it is damaged or lost; returns messages about what was done.

    Args:
        path: path of the database.
        clock: returns the time in seconds since 1970.
        bucket: where the backups were restored from just now, if they were.
    """
    ready = path.with_name(f"{path.name}.new")
    if not path.exists() and ready.exists():
        # The process died after renaming the damaged file and before moving the new one into place.
        _set_aside(path, clock)
        os.replace(ready, path)
        return [f"The database {path} was damaged; its mending was brought to an end."]
    for left_behind in path.parent.glob(".mending-*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    flaw = _flaw(path)
    if not flaw:
        ready.unlink(missing_ok=True)
        return []
    backup, damaged = newest_sound(path.parent / BACKUPS)
    partial = path.with_name(f".{path.name}.partial")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mending-") as folder:
        copy = Path(folder) / path.name
        carried = rebuild(partial, copy if _copied(path, copy) else None, backup)
    os.replace(partial, ready)
    aside = _set_aside(path, clock)
    os.replace(ready, path)
    kept = f" The damaged file is kept as {aside}." if aside is not None else ""
    base = f"the backup {backup.name}" if backup else "a new one"
    if bucket is not None:
        # As at every start on a new machine, so that only a damaged backup is worth a note.
        log.info("The database %s was restored from %s: it is %s.", path, bucket, base)
        return [f"{note} In its place is {base}." for note in damaged]
    return [
        f"The database {path} was damaged ({flaw}).{kept} In its place is {base}, with {carried} "
        "rows that could be read of the damaged file.",
        *damaged,
    ]


def _flaw(path: Path) -> str:
    """`flaw_of`, and also reports a missing or empty database if there once was one."""
    if path.exists() and (path.is_dir() or path.stat().st_size):
        return flaw_of(path)
    if backups(path.parent / BACKUPS) or (path.parent / SECRET).exists():
        return "it is empty" if path.exists() else "it is gone"
    return ""


def _copied(path: Path, copy: Path) -> bool:
    """Copy a damaged file and its log, so that reading them changes nothing.

    Returns False if `path` is not a file.
    """
    if not path.is_file():
        return False
    for ending in ("", *BESIDE):
        if (source := path.with_name(path.name + ending)).is_file():
            shutil.copyfile(source, copy.with_name(copy.name + ending))
    return True


def _set_aside(path: Path, clock: Callable[[], float]) -> Path | None:
    """Rename a database with its log and journal; returns its new path, if it existed."""
    when, number = f"{datetime.fromtimestamp(clock()):%Y-%m-%d-%H%M%S}", 1
    while True:
        aside = path.with_name(f"{path.stem}-damaged-{when}-{number}{path.suffix}")
        if not any(aside.with_name(aside.name + ending).exists() for ending in ("", *BESIDE)):
            break
        number += 1
    there = path.exists()
    for ending in ("", *BESIDE):
        source = path.with_name(path.name + ending)
        if source.exists():
            os.replace(source, aside.with_name(aside.name + ending))
    return aside if there else None


def _keep_secret(store: Store, path: Path) -> str:
    """Also store the secret beside the database: no browser's key can be read without it."""
    kept = read_secret(path)
    secret = store.secret(kept)
    if secret != kept:
        write_whole(path, secret)
    with suppress(OSError):
        path.chmod(0o600)
    return secret


def _find_jobs(store: Store, folder: Path) -> int:
    """Queue unfinished jobs that have a checkpoint sidecar but no row; returns their number."""
    count = 0
    for path in sorted(folder.glob("[!.]*.json")):
        if store.job(path.stem) is not None:
            continue
        try:
            job = read_row(path, JobRow)
        except (OSError, ValueError):
            log.warning("%s tells of no job that could go on", path, exc_info=True)
            continue
        message = "Found again by its checkpoint, from which it goes on."
        # The rows that `parent` and `map_id` refer to may be lost.
        store.add_job(
            replace(job, status="queued", phase="", parent="", map_id="", message=message)
        )
        count += 1
    return count


def _day(clock: Callable[[], float]) -> date:
    return datetime.fromtimestamp(clock()).date()
