"""Free room on the disk from outside of the app, as `lineas clean` does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lineas_core.models.shared.packages import abandoned_conversions
from lineas_core.studio.access.ledger import DAY, bytes_below
from lineas_core.studio.app import only_one
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.map_files import MapFiles
from lineas_core.studio.storage.scratch import EARLIER, PREFIX
from lineas_core.studio.storage.store import Store, StoreError
from lineas_core.system.owned_folders import abandoned


@dataclass(frozen=True)
class Removed:
    """Something that was removed, or would be.

    Attributes:
        kind: what it is, in words.
        path: where it lies, or the first of its files.
        bytes: how much room it takes.
    """

    kind: str
    path: Path
    bytes: int


def clean(
    home: Path, temporary: Path, days: float, *, dry_run: bool = False
) -> tuple[list[Removed], str]:
    """Remove what nobody needs any more.

    Temporary folders and unfinished conversions of processes that have ended; and where no app
    runs on the folder, maps that were deleted, and checkpoints and frames of jobs that ended, so
    many days ago. Nothing goes by its age before the clock has run evenly for as long
    (`Store.steady_for`).

    Args:
        home: LINEAS_HOME.
        temporary: from `scratch_parent`.
        days: 0 takes all that was deleted and has ended.
        dry_run: only say what would be removed.

    Returns:
        What was removed; and why some of it could not be looked for, or "".

    Raises:
        StoreError: the folder's database cannot be read.
    """
    remove = not dry_run
    folders = [("temporary files", folder) for folder in abandoned(temporary, PREFIX, remove=False)]
    for prefix in EARLIER:
        # Whether their process runs cannot be told; what they hold was of use for an hour.
        found = abandoned(temporary, prefix, remove=False, unlocked_after=DAY)
        folders += [("temporary files of an earlier version", folder) for folder in found]
    folders += [
        ("unfinished conversion", folder) for folder in abandoned_conversions(home, remove=False)
    ]
    removed = [Removed(kind, folder, bytes_below(folder)) for kind, folder in folders]
    if remove:
        abandoned(temporary, PREFIX)
        for prefix in EARLIER:
            abandoned(temporary, prefix, unlocked_after=DAY)
        abandoned_conversions(home)
    if not (home / "studio.db").exists():
        return removed, ""
    with ExitStack() as stack:
        try:
            stack.callback(only_one(home).release)
        except StoreError:
            return removed, (
                f"An app runs on {home}, so its deleted maps and files of jobs were left to it: it "
                "removes them after LINEAS_KEEP_DAYS. Stop it to remove them earlier."
            )
        store = Store(home / "studio.db", wal=(home / "studio.db-wal").exists())
        stack.callback(store.close)
        removed += list(_kept_by_age(home, store, days * DAY, remove))
    return removed, ""


def _kept_by_age(home: Path, store: Store, seconds: float, remove: bool) -> Iterator[Removed]:
    if store.steady_for(seconds) < seconds:
        return
    before = time.time() - seconds
    files = MapFiles(home / "maps")
    for map_id in store.deleted_maps(before):
        parts = (files.path(map_id), files.sidecar(map_id), files.glance(map_id))
        size = sum(part.stat().st_size for part in parts if part.exists())
        yield Removed("deleted map", parts[0], size)
    if remove:
        Library(store, home / "maps").purge(seconds)
    for path in JobFiles(home).ended(store, before):
        size = bytes_below(path) if path.is_dir() else path.stat().st_size
        yield Removed("files of a job that ended", path, size)
        if remove:
            JobFiles.remove(path)
