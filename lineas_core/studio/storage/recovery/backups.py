"""Dated backups of the database: the newest of each day, and the newest of all."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from contextlib import closing, suppress
from datetime import date
from pathlib import Path

from lineas_core.studio.storage.recovery.integrity import flaw_of, open_to_read, version_of
from lineas_core.studio.storage.schema import MIGRATIONS
from lineas_core.system.files import flush, why

# Days with a backup whose newest one remains, and how many of the newest remain whatever their day.
KEPT, KEPT_NEWEST = 7, 3
# Backups are ordered by number, not by date, as the clock may be set back.
_NAME = re.compile(r"studio-(\d{6,})-(\d{4}-\d\d-\d\d)\.db")

log = logging.getLogger(__name__)


def backups(folder: Path) -> list[Path]:
    """The backups in a folder, newest first."""
    found = [path for path in folder.glob("studio-*.db") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_number, reverse=True)


def back_up(database: Path, folder: Path, today: date, *, again: bool = False) -> Path | None:
    """Copy a sound database, unless the newest backup is of that day and of the same version.

    A failure is only logged, so that the app can start without a backup.

    Args:
        database: path of the database.
        folder: of the backups; created if missing.
        today: the day that the backup is named after.
        again: make one whatever the day of the newest.

    Returns:
        The new backup, if one was made.
    """
    earlier = backups(folder)
    number = _number(earlier[0]) + 1 if earlier else 1
    path = folder / f"studio-{number:06d}-{today:%Y-%m-%d}.db"
    partial = path.with_name(f".{path.name}.partial")
    try:
        folder.mkdir(exist_ok=True)
        for left_behind in folder.glob(".studio-*.partial*"):
            left_behind.unlink()
        with closing(open_to_read(database)) as source:
            if version_of(source) > len(MIGRATIONS):
                return None
            if not again and earlier and _day(earlier[0]) == f"{today:%Y-%m-%d}":
                with closing(open_to_read(earlier[0])) as newest:
                    if version_of(newest) == version_of(source):
                        return None
            copy_database(source, partial)
        os.replace(partial, path)
        for old in superseded(backups(folder)):
            old.unlink()
    except (OSError, sqlite3.Error):
        log.warning("there is no backup of %s today", database, exc_info=True)
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return None
    return path


def newest_sound(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest backup that is sound and not of a newer version, if any.

    Returns:
        It, and a sentence about each newer backup that is damaged.
    """
    damaged: list[str] = []
    for path in backups(folder):
        try:
            if not (flaw := flaw_of(path) if path.stat().st_size else "it is empty"):
                with closing(open_to_read(path)) as db:
                    if version_of(db) <= len(MIGRATIONS):
                        return path, damaged
                flaw = "it is of a newer version of this program"
        except (OSError, sqlite3.Error) as error:
            flaw = why(error)
        damaged.append(f"The backup {path.name} was left out ({flaw}).")
    return None, damaged


def copy_database(source: sqlite3.Connection, path: Path) -> None:
    """Copy an open database to a single file, flushed to disk."""
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        source.backup(copy)
        # Leave WAL mode, so that the copy is a single file.
        copy.execute("PRAGMA journal_mode = DELETE")
    flush(path)


def superseded(found: list[Path]) -> list[Path]:
    """The backups that are no longer kept.

    Args:
        found: newest first.
    """
    of_days: dict[str, Path] = {}
    for path in found:
        of_days.setdefault(_day(path), path)
    kept = {*found[:KEPT_NEWEST], *list(of_days.values())[:KEPT]}
    return [path for path in found if path not in kept]


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def _day(path: Path) -> str:
    found = _NAME.fullmatch(path.name)
    return found[2] if found else ""
