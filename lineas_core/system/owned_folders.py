"""Temporary folders that are removed once their process has ended, however it ended.

A process that is killed removes nothing. So each folder has a lock file beside it, which the system
releases with the process: the folder of whoever can be locked belongs to nobody any more.
"""

from __future__ import annotations

import glob
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"


@contextmanager
def owned_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, named after `prefix`, that is removed after the block.

    If the process is killed, `abandoned` finds the folder.

    Args:
        parent: created if missing.
        prefix: the same for all folders of one purpose.

    Raises:
        OSError: there can be no folder.
    """
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(8)}"
        lock = _lock(folder)
        # Whoever looks for abandoned folders may hold it for a moment, and remove its file.
        with suppress(Timeout):
            lock.acquire()
            break
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _release(lock)


def abandoned(
    parent: Path, prefix: str, *, remove: bool = True, unlocked_after: float | None = None
) -> list[Path]:
    """The folders that `owned_folder` made in processes that have ended.

    Args:
        parent: where to look; it may be missing.
        prefix: as given to `owned_folder`.
        remove: whether they are removed.
        unlocked_after: age in seconds from which folders without a lock file count too, which
            earlier versions made; None leaves these alone, as their process may be running.
    """
    pattern = glob.escape(prefix)
    found: list[Path] = []
    for path in sorted(parent.glob(f"{pattern}*{LOCK}")):
        folder = path.with_name(path.name.removesuffix(LOCK))
        lock = _lock(folder)
        # Another user's file cannot be opened.
        with suppress(Timeout, OSError):
            lock.acquire()
            try:
                if folder.is_dir():
                    found.append(folder)
                if remove:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                if remove:
                    _release(lock)
                else:
                    lock.release()
                    # Some versions of filelock remove the file, without which nobody finds it.
                    path.touch()
    if unlocked_after is not None:
        before = time.time() - unlocked_after
        for folder in sorted(parent.glob(f"{pattern}*")):
            locked = folder.with_name(folder.name + LOCK).exists()
            with suppress(OSError):
                if folder.is_dir() and not locked and _newest(folder) < before:
                    found.append(folder)
                    if remove:
                        shutil.rmtree(folder, ignore_errors=True)
    return found


def _lock(folder: Path) -> FileLock:
    # Released by whichever thread closes what the folder belongs to.
    return FileLock(folder.with_name(folder.name + LOCK), timeout=0, thread_local=False)


def _release(lock: FileLock) -> None:
    """Remove the lock's file while it is held, so that nobody takes a lock of no folder."""
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _newest(folder: Path) -> float:
    """When something in a folder was changed last, in seconds since 1970."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
