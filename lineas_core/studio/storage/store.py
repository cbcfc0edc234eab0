"""The Studio's database: jobs, maps and prompt sets in one SQLite file.

The row is authoritative; an event is only a hint. `transition` is a compare-and-set: one
concurrent caller wins, and the states done, failed and cancelled are final. Every change of a job
increments its `seq`.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.studio.storage.rows import (
    TERMINAL,
    UNFINISHED,
    JobRow,
    MapRow,
    PromptRow,
    Row,
    Status,
    decode,
    encode,
    fields_of,
)
from lineas_core.studio.storage.schema import StoreError, migrate, store_errors

__all__ = ["JobRow", "MapRow", "PromptRow", "Status", "Store", "StoreError"]

MAX_ATTEMPTS = 3
# The same of ends without a trace, as a job that causes them would do so for ever.
MAX_INTERRUPTIONS = 20
BUSY_SECONDS = 10.0
_TABLES: Mapping[type, str] = {JobRow: "jobs", MapRow: "maps", PromptRow: "prompt_sets"}
# The order in which jobs are started: jobs asked to stop first, as they only have to save a map.
_IN_TURN = "ORDER BY stopping DESC, number"


class Store:
    """One database file, safe to use from several threads.

    Args:
        path: path of the file; created if missing, and migrated to the newest version.
        wal: use write-ahead logging; not for network folders, whose file locks do not support it.
        clock: returns the time in seconds since 1970.

    Raises:
        StoreError: the file cannot be opened, is damaged, or has a newer version. Every method
            raises it when the file cannot be read or written.
    """

    def __init__(
        self, path: Path, *, wal: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        with store_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
            )
            try:
                self._db.row_factory = sqlite3.Row
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
                # With NORMAL, a power cut may lose the latest transactions but corrupts nothing.
                self._db.execute(f"PRAGMA synchronous = {'NORMAL' if wal else 'FULL'}")
                migrate(self._db)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with self._lock:
            self._db.close()

    def secret(self, kept: str = "") -> str:
        """64 random hex digits, generated once per database.

        Args:
            kept: the secret of an earlier database, used if this one has none yet.
        """
        made = kept or secrets.token_hex(32)
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", (made,))
            found = db.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()
        return str(found[0])

    def steady_for(self, max_gap: float) -> float:
        """Record the time; returns for how many seconds the clock has run without a jump.

        A jump is a step back, or forward by more than `max_gap` between two calls; it resets the
        count. Deletion by age needs this: a wrongly set clock may make everything look old.
        """
        now = self._clock()
        with self._transaction() as db:
            noted = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('seen', 'since')"))
            seen, since = float(noted.get("seen", now)), float(noted.get("since", now))
            if not 0 <= now - seen <= max_gap:
                since = now
            db.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                (("seen", repr(now)), ("since", repr(since))),
            )
        return now - since

    # Jobs

    def add_job(self, job: JobRow) -> JobRow:
        """Append a job to the queue; returns it with its `created` time set."""
        return self._add(replace(job, created=self._clock()))

    def job(self, job_id: str) -> JobRow | None:
        """The job with that id, of any owner."""
        return self._one(JobRow, job_id)

    def jobs(self, owner: str, limit: int = 50) -> list[JobRow]:
        """An owner's jobs, newest first."""
        return self._select(JobRow, "WHERE owner = ? ORDER BY number DESC LIMIT ?", owner, limit)

    def unfinished(self, owner: str | None = None) -> list[JobRow]:
        """Running jobs, then waiting ones in queue order."""
        whose = "" if owner is None else "AND owner = ?"
        return self._select(
            JobRow,
            f"WHERE status IN ({_marks(UNFINISHED)}) {whose} "
            "ORDER BY status != 'running', stopping DESC, number",
            *UNFINISHED,
            *(() if owner is None else (owner,)),
        )

    def transition(self, job_id: str, frm: Collection[Status], to: Status, **changes: Any) -> bool:
        """Change a job's status if it is one of `frm`; no other method changes a status.

        Args:
            job_id: id of the job.
            frm: the statuses it may be in; final ones are not allowed.
            to: the new status.
            changes: other fields to change in the same transaction.

        Returns:
            Whether the job was in one of `frm`, and this call changed it.
        """
        if TERMINAL & set(frm):
            raise ValueError(f"{sorted(TERMINAL & set(frm))[0]} is for good; leave it out of frm.")
        # A time of 0 would mean that the job has not ended.
        ended = {"finished": self._clock() or 1.0} if to in TERMINAL else {}
        return self._change_job(job_id, frm, {"phase": "", **changes, **ended, "status": to})

    def progress(self, job_id: str, **changes: Any) -> bool:
        """Change fields of a job if it is running; returns whether it is."""
        return self._change_job(job_id, {"running"}, changes)

    def claim_next(self) -> JobRow | None:
        """Start the next job: queued -> running, and increment its attempts."""
        with self._transaction() as db:
            record = db.execute(
                "UPDATE jobs SET status = 'running', phase = 'loading', message = '', "
                "seq = seq + 1, attempts = attempts + 1, "
                "started = CASE WHEN started = 0 THEN ? ELSE started END "
                "WHERE number = (SELECT number FROM jobs WHERE status = 'queued' "
                f"{_IN_TURN} LIMIT 1) RETURNING *",
                (self._clock(),),
            ).fetchone()
        return decode(JobRow, record) if record else None

    def ask_to_stop(self, job_id: str) -> bool:
        """Ask a job to stop; returns whether it was unfinished. The request survives restarts."""
        return self._change_job(job_id, UNFINISHED, {"stopping": True})

    def stop_asked(self, job_id: str) -> bool:
        """Whether the job was asked to stop."""
        return bool(self._values("SELECT 1 FROM jobs WHERE id = ? AND stopping", job_id))

    def position(self, job_id: str) -> int:
        """The job's position in the queue: 1 is next, 0 means not queued."""
        ids = self._values(f"SELECT id FROM jobs WHERE status = 'queued' {_IN_TURN}")
        return ids.index(job_id) + 1 if job_id in ids else 0

    def seconds_a_step(self, model: str, method: str = DEFAULT_METHOD) -> float | None:
        """Seconds per step in the newest job of that model and method that made a step."""
        found = self._values(
            "SELECT seconds / step FROM jobs WHERE model = ? AND method = ? AND step > 0 "
            "ORDER BY number DESC LIMIT 1",
            model,
            method,
        )
        return float(found[0]) if found else None

    def recover(self, *, died_of_itself: bool = False) -> list[str]:
        """Requeue the jobs that were running when the process died. Call before starting any job.

        Args:
            died_of_itself: whether the process died of what it did, which counts as an attempt of
                the job; being stopped or killed does not.

        Returns:
            Ids of the requeued jobs. A job whose process died of itself `MAX_ATTEMPTS` (3) times
            since its last checkpoint, or was interrupted `MAX_INTERRUPTIONS` (20) times, is marked
            failed instead.
        """
        again = []
        for job in self.unfinished():
            if job.status == "running":
                self.transition(job.id, {"running"}, "interrupted")
            if job.status == "queued":
                continue
            attempts, interruptions = job.attempts, job.interruptions
            if not died_of_itself:
                attempts, interruptions = max(0, attempts - 1), interruptions + 1
            if attempts >= MAX_ATTEMPTS:
                self.transition(
                    job.id,
                    {"interrupted"},
                    "failed",
                    message=f"The program ended {attempts} times while this job ran, without "
                    "a new checkpoint; it may need more memory than there is. Try a smaller model "
                    "or a smaller batch.",
                )
            elif interruptions >= MAX_INTERRUPTIONS:
                self.transition(
                    job.id,
                    {"interrupted"},
                    "failed",
                    message=f"The program was stopped {interruptions} times while this job ran, "
                    "without a new checkpoint. Try again when it runs for longer.",
                )
            elif self.transition(
                job.id,
                {"interrupted"},
                "queued",
                message="Interrupted by a restart; it goes on from where it was.",
                attempts=attempts,
                interruptions=interruptions,
            ):
                again.append(job.id)
        return again

    # Maps and prompt sets

    def add_map(self, row: MapRow) -> MapRow:
        """Store a map's row; returns it, with `created` set to now if it had no time."""
        return self._add(replace(row, created=row.created or self._clock()))

    def map(self, map_id: str) -> MapRow | None:
        """The row of the map with that id, of any owner, deleted or not."""
        return self._one(MapRow, map_id)

    def map_of_job(self, job_id: str) -> MapRow | None:
        """The row of the map that a job made, if any."""
        found = self._select(MapRow, "WHERE job = ? ORDER BY number LIMIT 1", job_id)
        return found[0] if found else None

    def name_map(self, map_id: str, job_id: str) -> None:
        """Set `map_id` of a finished job that has none."""
        ended = tuple(TERMINAL)
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET seq = seq + 1, map_id = ? "
                f"WHERE id = ? AND map_id IS NULL AND status IN ({_marks(ended)})",
                (map_id, job_id, *ended),
            )

    def maps(self, owner: str) -> list[MapRow]:
        """An owner's maps, newest first, without the deleted ones."""
        return self._kept(MapRow, owner)

    def map_ids(self) -> set[str]:
        """Ids of all maps, of all owners, deleted or not."""
        return set(self._values("SELECT id FROM maps"))

    def change_map(self, map_id: str, owner: str, **changes: Any) -> bool:
        """Change fields of an owner's map; returns whether there is such a map."""
        return self._change(MapRow, map_id, owner, changes)

    def deleted_maps(self, before: float) -> list[str]:
        """Ids of maps that were deleted before a time."""
        return self._values("SELECT id FROM maps WHERE deleted < ?", before)

    def remove_map(self, map_id: str) -> None:
        """Permanently remove a map's row."""
        with self._transaction() as db:
            db.execute("DELETE FROM maps WHERE id = ?", (map_id,))

    def add_prompts(self, row: PromptRow) -> PromptRow:
        """Store a prompt set; returns its row with the `created` time set."""
        return self._add(replace(row, created=self._clock()))

    def prompts(self, prompts_id: str) -> PromptRow | None:
        """The prompt set with that id, of any owner, deleted or not."""
        return self._one(PromptRow, prompts_id)

    def prompt_sets(self, owner: str) -> list[PromptRow]:
        """An owner's prompt sets, newest first, without the deleted ones."""
        return self._kept(PromptRow, owner)

    def prompt_bytes(self, owner: str) -> int:
        """Size of an owner's prompt sets in bytes, including deleted ones."""
        length = "ifnull(sum(length(CAST(prompts AS BLOB))), 0)"
        return int(self._values(f"SELECT {length} FROM prompt_sets WHERE owner = ?", owner)[0])

    def change_prompts(self, prompts_id: str, owner: str, **changes: Any) -> bool:
        """Change fields of an owner's prompt set; returns whether there is such a set."""
        return self._change(PromptRow, prompts_id, owner, changes)

    def remove_deleted_prompts(self, before: float) -> None:
        """Permanently remove the prompt sets that were deleted before a time."""
        with self._transaction() as db:
            db.execute("DELETE FROM prompt_sets WHERE deleted < ?", (before,))

    # Shared by all tables

    def _add(self, row: Row) -> Row:
        columns = encode(fields_of(row))
        with self._transaction() as db:
            db.execute(
                f"INSERT INTO {_TABLES[type(row)]} ({', '.join(columns)}) "
                f"VALUES ({_marks(columns)})",
                tuple(columns.values()),
            )
        return row

    def _one(self, kind: type[Row], row_id: str) -> Row | None:
        found = self._select(kind, "WHERE id = ?", row_id)
        return found[0] if found else None

    def _kept(self, kind: type[Row], owner: str) -> list[Row]:
        return self._select(kind, "WHERE owner = ? AND deleted IS NULL ORDER BY number DESC", owner)

    def _select(self, kind: type[Row], where: str, *values: Any) -> list[Row]:
        records = self._fetch(f"SELECT * FROM {_TABLES[kind]} {where}", values)
        return [decode(kind, record) for record in records]

    def _values(self, query: str, *values: Any) -> list[Any]:
        return [record[0] for record in self._fetch(query, values)]

    def _fetch(self, query: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        with (
            self._lock,
            store_errors(self.path),
            closing(self._db.execute(query, values)) as cursor,
        ):
            return cursor.fetchall()

    def _change_job(
        self, job_id: str, statuses: Collection[Status], changes: Mapping[str, Any]
    ) -> bool:
        settings, values = _settings(JobRow, changes)
        with self._transaction() as db:
            done = db.execute(
                f"UPDATE jobs SET seq = seq + 1, {settings} "
                f"WHERE id = ? AND status IN ({_marks(statuses)})",
                (*values, job_id, *statuses),
            )
            return done.rowcount == 1

    def _change(
        self, kind: type[MapRow | PromptRow], row_id: str, owner: str, changes: Mapping[str, Any]
    ) -> bool:
        settings, values = _settings(kind, changes)
        with self._transaction() as db:
            done = db.execute(
                f"UPDATE {_TABLES[kind]} SET {settings} WHERE id = ? AND owner = ?",
                (*values, row_id, owner),
            )
            return done.rowcount == 1

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, store_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _settings(kind: type[Any], changes: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The SET clause for `changes`, and its parameters."""
    unknown = set(changes) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {sorted(unknown)[0]!r}.")
    columns = encode(changes)
    return ", ".join(f"{name} = ?" for name in columns), list(columns.values())


def _marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))
