"""Rebuild a database from the readable rows of a damaged one and from a backup."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from lineas_core.studio.storage.recovery.backups import copy_database
from lineas_core.studio.storage.recovery.integrity import KINDS, open_to_read
from lineas_core.studio.storage.rows import UNREADABLE, decode
from lineas_core.studio.storage.schema import migrate

# (table, column, referenced table) of each foreign key.
_REFERENCES = (("jobs", "parent", "jobs"), ("jobs", "map_id", "maps"), ("maps", "job", "jobs"))


def rebuild(path: Path, damaged: Path | None, backup: Path | None) -> int:
    """Build a sound database of the newest version.

    Starts from the backup, and adds from the damaged file the rows that the backup lacks and jobs
    that progressed since. References to missing rows become NULL.

    Args:
        path: path of the new file.
        damaged: a copy of the damaged file, with its log beside it; SQLite may write to it.
        backup: a sound backup.

    Returns:
        The number of rows of the damaged file that could be read.

    Raises:
        sqlite3.Error: the new file cannot be written, or the backup cannot be read.
    """
    path.unlink(missing_ok=True)
    if backup is not None:
        with closing(open_to_read(backup)) as source:
            copy_database(source, path)
    carried = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        migrate(db)
        db.execute("BEGIN")
        if damaged is not None:
            for table in ("meta", *KINDS):
                carried += sum(_carry(db, table, record) for record in _readable(damaged, table))
        for table, column, other in _REFERENCES:
            db.execute(
                f"UPDATE {table} SET {column} = NULL WHERE {column} NOT IN (SELECT id FROM {other})"
            )
        db.execute("COMMIT")
    return carried


def _readable(damaged: Path, table: str) -> list[dict[str, Any]]:
    """The rows before the first damaged page and after the last one.

    Reads in both directions, each until the first error.
    """
    found: dict[Any, dict[str, Any]] = {}
    for order in ("ASC", "DESC"):
        with suppress(*UNREADABLE, sqlite3.Error), closing(sqlite3.connect(damaged)) as db:
            db.row_factory = sqlite3.Row
            for record in db.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY rowid {order}"):
                found[record[0]] = dict(record)
    return list(found.values())


def _carry(db: sqlite3.Connection, table: str, record: Mapping[str, Any]) -> bool:
    """Copy a record of the damaged file into the new one; returns whether it can be decoded."""
    has = {column["name"] for column in db.execute(f"PRAGMA table_info({table})")}
    known = {name: value for name, value in record.items() if name in has}
    if table == "meta":
        # Add only what the backup lacks: a damaged value of `meta` cannot be recognised.
        with suppress(sqlite3.Error):
            _insert(db, "INSERT OR IGNORE", table, known)
        return False
    db.execute("SAVEPOINT carried")
    try:
        _put(db, table, known)
        row = db.execute(f"SELECT * FROM {table} WHERE id = ?", (known["id"],)).fetchone()
        decode(KINDS[table], row)
    except (sqlite3.Error, *UNREADABLE):
        db.execute("ROLLBACK TO carried")
        return False
    finally:
        db.execute("RELEASE carried")
    return True


def _put(db: sqlite3.Connection, table: str, known: Mapping[str, Any]) -> None:
    """Insert a row that the backup lacks, or update a job that progressed since the backup."""
    old = db.execute(f"SELECT * FROM {table} WHERE id = ?", (known["id"],)).fetchone()
    if old is None:
        number = known.get("number")
        taken = db.execute(f"SELECT 1 FROM {table} WHERE number = ?", (number,)).fetchone()
        _insert(db, "INSERT", table, {n: v for n, v in known.items() if n != "number" or not taken})
    # A readable row may still contain corrupt bytes: only a change made by the app, a higher seq,
    # overrides the backup.
    elif table == "jobs" and known["seq"] > old["seq"]:
        others = {name: value for name, value in known.items() if name not in ("id", "number")}
        settings = ", ".join(f"{name} = ?" for name in others)
        db.execute(f"UPDATE jobs SET {settings} WHERE id = ?", (*others.values(), known["id"]))


def _insert(db: sqlite3.Connection, how: str, table: str, values: Mapping[str, Any]) -> None:
    names: Iterable[str] = values.keys()
    marks = ", ".join("?" * len(values))
    db.execute(f"{how} INTO {table} ({', '.join(names)}) VALUES ({marks})", tuple(values.values()))
