"""The job that the train tab shows, and its map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import JobRow, MapRow


@dataclass(frozen=True)
class ShownJob:
    """What the page shows of a job, so that it is not sent twice."""

    job: str = ""
    seq: int = -1
    running: bool = False

    @classmethod
    def from_page(cls, value: Any) -> ShownJob:
        """What the page sent back; nothing, where that is not one of these."""
        try:
            return cls(str(value["job"]), int(value["seq"]), bool(value["running"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return cls()


def map_on_stage(library: Library, job: JobRow, owner: str) -> MapRow | None:
    """The map of a job of the owner's that has ended; None if it has none, or it was deleted."""
    row = library.map_of_job(job.id, owner) if job.finished else None
    return row if row is not None and row.deleted is None else None
