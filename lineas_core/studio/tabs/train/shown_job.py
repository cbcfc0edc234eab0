"""The job shown in the train tab, and its map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import JobRow, MapRow


@dataclass(frozen=True)
class ShownJob:
    """The state of a job that the page already shows, so that it is not sent twice."""

    job: str = ""
    seq: int = -1
    running: bool = False

    @classmethod
    def from_page(cls, value: Any) -> ShownJob:
        """The state that the page sent back; the default, which names no job, if it is invalid."""
        try:
            return cls(str(value["job"]), int(value["seq"]), bool(value["running"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return cls()


def map_on_stage(library: Library, job: JobRow, owner: str) -> MapRow | None:
    """The map of the owner's finished job; None if there is no such map, or it was deleted."""
    row = library.map_of_job(job.id, owner) if job.finished else None
    return row if row is not None and row.deleted is None else None
