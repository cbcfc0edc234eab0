"""The tables of the Studio's database, and the migrations from older versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lineas_core.errors import LineasError
from lineas_core.studio.storage.disk import is_full, no_room

Migration = Sequence[str]


class StoreError(LineasError, RuntimeError):
    """The Studio's database cannot be opened, read or written."""


# Each migrates from the previous version to its own. Never change a released migration.
MIGRATIONS: tuple[Migration, ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            seq INTEGER NOT NULL,
            status TEXT NOT NULL CHECK (status IN
                ('queued', 'running', 'done', 'failed', 'cancelled', 'interrupted')),
            phase TEXT NOT NULL,
            model TEXT NOT NULL,
            title TEXT NOT NULL,
            prompts TEXT NOT NULL,
            changes TEXT NOT NULL,
            preview_prompt TEXT NOT NULL,
            step INTEGER NOT NULL,
            steps INTEGER NOT NULL,
            loss REAL,
            seconds REAL NOT NULL,
            seconds_left REAL NOT NULL,
            support REAL,
            losses BLOB NOT NULL,
            supports BLOB NOT NULL,
            attempts INTEGER NOT NULL,
            parent TEXT REFERENCES jobs (id) ON DELETE SET NULL,
            map_id TEXT REFERENCES maps (id) ON DELETE SET NULL,
            message TEXT NOT NULL,
            health TEXT,
            frames INTEGER NOT NULL,
            stopping INTEGER NOT NULL,
            created REAL NOT NULL,
            started REAL NOT NULL,
            finished REAL NOT NULL
        )""",
        "CREATE INDEX jobs_by_owner ON jobs (owner, number)",
        "CREATE INDEX jobs_by_status ON jobs (status, number)",
        "CREATE INDEX jobs_by_model ON jobs (model, number)",
        """CREATE TABLE maps (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            title TEXT NOT NULL,
            tags TEXT NOT NULL,
            model TEXT NOT NULL,
            modality TEXT NOT NULL,
            method TEXT NOT NULL,
            name TEXT NOT NULL,
            concept TEXT NOT NULL,
            digest TEXT NOT NULL,
            support REAL NOT NULL,
            recommended REAL,
            health TEXT,
            prompts TEXT,
            config TEXT NOT NULL,
            losses BLOB NOT NULL,
            job TEXT REFERENCES jobs (id) ON DELETE SET NULL,
            created REAL NOT NULL,
            deleted REAL,
            seed INTEGER
        )""",
        "CREATE INDEX maps_by_owner ON maps (owner, number)",
        "CREATE INDEX maps_by_job ON maps (job)",
        """CREATE TABLE prompt_sets (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            prompts TEXT NOT NULL,
            created REAL NOT NULL,
            deleted REAL
        )""",
        "CREATE INDEX prompt_sets_by_owner ON prompt_sets (owner, number)",
    ),
    # Earlier versions had one method only.
    ("ALTER TABLE jobs ADD COLUMN method TEXT NOT NULL DEFAULT 'lineas'",),
    # Points of the calibration curve in JSON; NULL where none was measured.
    ("ALTER TABLE maps ADD COLUMN calibration TEXT",),
    # Earlier versions counted a restart as an attempt.
    ("ALTER TABLE jobs ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0",),
)


def migrate(db: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Migrate a database to the newest version in one transaction.

    Args:
        db: in autocommit mode; its PRAGMA user_version is the number of migrations applied.
        migrations: all migrations, oldest first.

    Raises:
        StoreError: the database has a newer version than `migrations` supports.
    """
    # Lock before reading the version, since two processes may start at once.
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(migrations):
            raise StoreError(
                f"The database has version {version}; this program reads up to {len(migrations)}. "
                "Update lineas_core, or choose another LINEAS_HOME."
            )
        for statements in migrations[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(migrations)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Convert SQLite and OS errors in the block to `StoreError`s about the database at `path`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(_said(path, error)) from error


def _said(path: Path, error: sqlite3.Error | OSError) -> str:
    """The message for an error: what went wrong, and what to do."""
    if is_full(error):
        return no_room(path.parent)
    if isinstance(error, OSError):
        return (
            f"There can be no database at {path} ({error}). Choose a folder that can be written "
            "as LINEAS_HOME."
        )
    if isinstance(error, sqlite3.OperationalError):
        return (
            f"The database {path} cannot be used ({error}). Check that its folder can be written "
            "and has room, and that no other program holds it."
        )
    return (
        f"The database {path} is damaged, or not one ({error}). Start again: what can be read of "
        "it is kept, and so are the files of the maps."
    )
