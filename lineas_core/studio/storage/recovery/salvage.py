"""A new database from what can still be read of a damaged one, and from a backup."""

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

# Table, column and the table whose ids it holds.
_REFERENCES = (("jobs", "parent", "jobs"), ("jobs", "map_id", "maps"), ("maps", "job", "jobs"))


def rebuild(path: Path, damaged: Path | None, backup: Path | None) -> int:
    """Make a sound database of the newest version.

    Rows are the backup's; of the damaged file, those that the backup has not, and jobs that have
    gone on since. References to rows that are not there become none.

    Args:
        path: of the new file.
        damaged: a copy of the damaged file, with its log beside it; it is written to.
        backup: a sound one.

    Returns:
        How many rows of the damaged file could be read.

    Raises:
        sqlite3.Error: the new file cannot be written, or the backup not read.
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
    """The rows before the first damaged page, and those after the last."""
    found: dict[Any, dict[str, Any]] = {}
    for order in ("ASC", "DESC"):
        with suppress(*UNREADABLE, sqlite3.Error), closing(sqlite3.connect(damaged)) as db:
            db.row_factory = sqlite3.Row
            for record in db.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY rowid {order}"):
                found[record[0]] = dict(record)
    return list(found.values())


def _carry(db: sqlite3.Connection, table: str, record: Mapping[str, Any]) -> bool:
    """Put a record of the damaged file into the new one; returns whether it is sound there."""
    has = {column["name"] for column in db.execute(f"PRAGMA table_info({table})")}
    known = {name: value for name, value in record.items() if name in has}
    if table == "meta":
        # Only what the backup lacks: there is nothing to tell a damaged value by.
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
    """Add a row that the backup has not, or change it where it is a job that has gone on since."""
    old = db.execute(f"SELECT * FROM {table} WHERE id = ?", (known["id"],)).fetchone()
    if old is None:
        number = known.get("number")
        taken = db.execute(f"SELECT 1 FROM {table} WHERE number = ?", (number,)).fetchone()
        _insert(db, "INSERT", table, {n: v for n, v in known.items() if n != "number" or not taken})
    # A byte may be another one in a row that can be read: nothing but a change that the app made
    # is a reason to leave what the backup says.
    elif table == "jobs" and known["seq"] > old["seq"]:
        others = {name: value for name, value in known.items() if name not in ("id", "number")}
        settings = ", ".join(f"{name} = ?" for name in others)
        db.execute(f"UPDATE jobs SET {settings} WHERE id = ?", (*others.values(), known["id"]))


def _insert(db: sqlite3.Connection, how: str, table: str, values: Mapping[str, Any]) -> None:
    names: Iterable[str] = values.keys()
    marks = ", ".join("?" * len(values))
    db.execute(f"{how} INTO {table} ({', '.join(names)}) VALUES ({marks})", tuple(values.values()))
