"""Integrity checks of a database file, which open it read-only so that they cannot change it."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.studio.storage.rows import UNREADABLE, JobRow, MapRow, PromptRow, decode
from lineas_core.studio.storage.schema import MIGRATIONS, Migration, migrate

KINDS: Mapping[str, type[JobRow | MapRow | PromptRow]] = {
    "jobs": JobRow,
    "maps": MapRow,
    "prompt_sets": PromptRow,
}
# Suffixes of the files that belong to a database.
BESIDE = ("-wal", "-shm", "-journal")
# SQLite error codes that mean corrupt contents. Other codes concern the folder, its permissions or
# another process, and say nothing about the contents.
_DAMAGE = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_NOTADB,
}
# Values that migrations write to columns that older versions lack.
_LATER = {"method": DEFAULT_METHOD}
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_WAL_HEADER = 32
_VERSIONS = slice(18, 20)


def flaw_of(path: Path) -> str:
    """Describe what is wrong with a database; "" if it is sound or has a newer version.

    Args:
        path: path of an existing file.

    Raises:
        sqlite3.Error: it cannot be read for a reason other than its contents.
        OSError: likewise.
    """
    if path.is_dir():
        return "there is a folder in its place"
    with path.open("rb") as file:
        header = file.read(100)
    if header and any(version not in (1, 2) for version in header[_VERSIONS]):
        return "its header is damaged"
    if not _log_is_sound(path):
        return "its write-ahead log is damaged"
    try:
        with closing(open_to_read(path)) as db:
            return _flaw_inside(db)
    except UnicodeDecodeError:
        return "its texts are damaged"
    except sqlite3.Error as error:
        if not about_contents(error):
            raise
        return str(error).partition(" with text ")[0]


def about_contents(error: sqlite3.Error) -> bool:
    """Whether an SQLite error is caused by the contents of the file."""
    # Errors raised by the sqlite3 module itself, such as text that is not UTF-8, have no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGE


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a connection that changes neither the file nor, on closing, its write-ahead log."""
    # A leftover journal makes SQLite roll back the transaction that was open when the process
    # died. That is not damage, but it needs write access.
    mode = "rw" if path.with_name(path.name + "-journal").exists() else "ro"
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


def version_of(db: sqlite3.Connection) -> int:
    """The database's version: the number of migrations applied to it."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _flaw_inside(db: sqlite3.Connection) -> str:
    found = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if found != "ok":
        # The first line only names the database.
        return found.splitlines()[-1]
    version = version_of(db)
    if version > len(MIGRATIONS):
        return ""
    has, wanted = _parts(db), _parts_of_version(MIGRATIONS[: max(0, version)])
    for part, columns in wanted.items():
        if part not in has:
            return f"{part} is missing"
        if lacks := [column for column in columns if column not in has[part]]:
            return f"{part} has no column {lacks[0]}"
    if has != wanted:
        return f"it has other tables than version {version}"
    if (dangling := db.execute("PRAGMA foreign_key_check").fetchone()) is not None:
        return f"a row of {dangling['table']} names one of {dangling['parent']} that is not there"
    return next((flaw for table in KINDS if wanted and (flaw := _flaw_of_rows(db, table))), "")


def _flaw_of_rows(db: sqlite3.Connection, table: str) -> str:
    """Describe the first row that cannot be decoded; "" if there is none.

    SQLite does not validate the contents of text columns, which the app decodes to show its pages.
    """
    for record in db.execute(f"SELECT * FROM {table} NOT INDEXED"):
        filled = {**_LATER, **dict(record)}
        try:
            decode(KINDS[table], filled)
        except UNREADABLE:
            return f"row {record['number']} of {table} cannot be read"
    return ""


def _parts(db: sqlite3.Connection) -> dict[str, list[str]]:
    """Tables and indices -> their columns."""
    named = db.execute(
        "SELECT type, name FROM sqlite_master "
        "WHERE type IN ('table', 'index') AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    info = {"table": "table_info", "index": "index_info"}
    return {
        f"{kind} {name}": [c["name"] for c in db.execute(f"PRAGMA {info[kind]}({name})")]
        for kind, name in named
    }


def _parts_of_version(migrations: Sequence[Migration]) -> dict[str, list[str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        migrate(db, migrations)
        return _parts(db)


def _log_is_sound(path: Path) -> bool:
    """Whether the write-ahead log, if any, has a valid header: SQLite ignores an invalid log."""
    log = path.with_name(path.name + "-wal")
    if not log.is_file():
        return not log.exists()
    with log.open("rb") as file:
        header = file.read(_WAL_HEADER)
    if len(header) < _WAL_HEADER:
        return True
    magic, *_ = struct.unpack(">I", header[:4])
    if magic not in _WAL_MAGIC:
        return False
    first = second = 0
    words: Any = struct.unpack(f"{_WAL_MAGIC[magic]}6I", header[:24])
    for a, b in zip(words[::2], words[1::2], strict=True):
        first = (first + a + second) & 0xFFFFFFFF
        second = (second + b + first) & 0xFFFFFFFF
    return (first, second) == struct.unpack(">2I", header[24:])
