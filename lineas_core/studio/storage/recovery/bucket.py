"""Copies of LINEAS_HOME in a storage bucket, from which an empty folder is filled again.

A mounted bucket is object storage. A file in it can be written from start to end, which it keeps
once the file is closed, and renamed or removed, but not changed in place; locks do not reach other
machines. So the database stays on a local disk, and its backups are copied. Source: "Consistency
model" of https://github.com/huggingface/hf-mount, by which Spaces mount buckets.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from lineas_core.studio.storage.disk import is_full
from lineas_core.studio.storage.recovery.backups import back_up, backups, superseded
from lineas_core.studio.storage.schema import StoreError
from lineas_core.system.files import replacing, why
from lineas_core.system.words import counted

DATABASE, SECRET, BACKUPS = "studio.db", "studio.secret", "backups"
FOLDERS = ("maps", "checkpoints", "frames", BACKUPS)
SECONDS_BETWEEN_COPIES = 60.0
# Each file is a request over the network, and most files are small.
AT_ONCE = 16

_SECRET = re.compile(r"[0-9a-f]{64}")

# Size and time of the last change, in nanoseconds.
Stamp = tuple[int, int]

log = logging.getLogger(__name__)


def restore(bucket: Path, home: Path) -> bool:
    """Fill a folder without a database with the files of a bucket that it lacks.

    Safe to repeat if the process died in between.

    Returns:
        Whether there were any.

    Raises:
        StoreError: the bucket is no folder, or one of its files cannot be read.
        OSError: `home` cannot be written.
    """
    if not bucket.is_dir():
        raise StoreError(
            f"LINEAS_BUCKET is {bucket}, which is no folder. Mount the bucket there, or give "
            "another folder."
        )
    if (home / DATABASE).exists():
        return False

    def fetch(name: str) -> None:
        source = bucket / name
        with replacing(home / name) as partial:
            shutil.copyfile(source, partial)
            stat = source.stat()
            # By its time, the file is known not to have changed since.
            os.utime(partial, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    try:
        names = [name for name in sorted(_files(bucket)) if not (home / name).exists()]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(fetch, names):
                pass
    except OSError as error:
        if is_full(error):
            raise
        raise StoreError(
            f"The copies in the bucket {bucket} cannot be read ({why(error)}), so nothing was "
            "opened. Check that it is mounted, and start again."
        ) from error
    return bool(names)


def read_secret(path: Path) -> str:
    """The secret that visitors' keys are kept under; "" if there is none in the file.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.exists():
        return ""
    kept = path.read_text(encoding="ascii", errors="replace").strip()
    return kept if _SECRET.fullmatch(kept) else ""


def check_same_secret(bucket: Path, secret: str) -> None:
    """Refuse a bucket with the copies of another folder, which this one's would replace.

    Raises:
        StoreError: the bucket has another secret.
        OSError: the bucket cannot be read.
    """
    if read_secret(bucket / SECRET) not in ("", secret):
        raise StoreError(_of_another(bucket))


def _of_another(bucket: Path) -> str:
    return (
        f"The bucket {bucket} holds the copies of another LinEAS Studio. Set LINEAS_BUCKET to an "
        "empty folder or, to go on with those copies, LINEAS_HOME to one."
    )


class BucketCopies:
    """Copies what changes in LINEAS_HOME into a bucket, once a minute and when it is closed.

    A file is removed from the bucket only when it was seen in LINEAS_HOME before, and is gone.

    Args:
        home: LINEAS_HOME, opened.
        bucket: a folder of its own for the copies.
        clock: returns the time in seconds since 1970.
    """

    def __init__(self, home: Path, bucket: Path, clock: Callable[[], float] = time.time) -> None:
        self._home, self._bucket, self._clock = home, bucket, clock
        self._copied: dict[str, Stamp] = {}
        self._backed_up: list[Stamp | None] = []
        self._failure = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bucket-copies", daemon=True)

    def start(self) -> None:
        """Copy in a thread, from now on."""
        self._thread.start()

    def close(self) -> None:
        """Copy once more, and stop."""
        self._closing.set()
        self._thread.join()

    def copy(self) -> None:
        """Back up the database if it has changed, and copy what has.

        A failure is only logged, once: the next call tries again.
        """
        try:
            failure = self._copy()
        except OSError as error:
            failure = why(error)
        if failure and failure != self._failure:
            log.warning(
                "The bucket %s has no copy of the latest changes in %s: %s",
                self._bucket,
                self._home,
                failure,
            )
        elif self._failure and not failure:
            log.warning("The bucket %s has a copy of all changes again.", self._bucket)
        self._failure = failure

    def _run(self) -> None:
        closing = False
        while not closing:
            self.copy()
            closing = self._closing.wait(SECONDS_BETWEEN_COPIES)
        self.copy()

    def _copy(self) -> str:
        """Copy what has changed; returns the first failure, or ""."""
        database = self._home / DATABASE
        for part in (database, self._bucket):
            if not part.exists():
                return f"{part} is gone"
        if read_secret(self._bucket / SECRET) not in ("", read_secret(self._home / SECRET)):
            return _of_another(self._bucket)
        # The backup comes before the files that its rows name, and is copied after them.
        if (now := _stamps(database)) != self._backed_up:
            today = datetime.fromtimestamp(self._clock()).date()
            if back_up(database, self._home / BACKUPS, today, again=True) is None:
                return "the database cannot be backed up"
            self._backed_up = now
        names = set(_files(self._home))
        last = {name for name in names if name.startswith(f"{BACKUPS}/")}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            failures = [
                failure
                for group in (names - last, last)
                for failure in pool.map(self._copy_file, sorted(filter(self._is_new, group)))
                if failure
            ]
        if failures:
            return f"{failures[0]} ({counted(len(failures), 'file')} in all)"
        for name in sorted(self._copied.keys() - names):
            # A folder that has gone was not removed by the app.
            if (self._home / name.split("/")[0]).exists():
                (self._bucket / name).unlink(missing_ok=True)
                del self._copied[name]
        # Those that went from LINEAS_HOME as it was opened were never seen there.
        for old in superseded(backups(self._bucket / BACKUPS)):
            old.unlink(missing_ok=True)
        return ""

    def _is_new(self, name: str) -> bool:
        """Whether a file is new, or has changed since it was copied."""
        return self._copied.get(name) != _stamp(self._home / name)

    def _copy_file(self, name: str) -> str:
        """Copy a file unless the bucket has it; returns why it failed, or ""."""
        source, target = self._home / name, self._bucket / name
        try:
            if (stamp := _stamp(source)) is None:
                return ""
            if name in self._copied or not _is_copy(target, stamp):
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.partial")
                # Not `replacing`, which opens the file again to flush it.
                shutil.copyfile(source, partial)
                os.replace(partial, target)
        except OSError as error:
            # Checkpoints may go at any time.
            return f"{name}: {why(error)}" if source.exists() else ""
        self._copied[name] = stamp
        return ""


def _files(root: Path) -> Iterator[str]:
    """Names of the files that are copied, relative to `root`, without those that are being written.

    Raises:
        OSError: a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        # One that is removed meanwhile has no files.
        if not isinstance(error, FileNotFoundError):
            raise error

    if (root / SECRET).exists():
        yield SECRET
    for top in FOLDERS:
        for folder, _, names in os.walk(root / top, onerror=fail):
            for name in names:
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(root).as_posix()


def _stamp(path: Path) -> Stamp | None:
    """The file's, or None if there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _stamps(database: Path) -> list[Stamp | None]:
    """Changes with every change of the database, which may be in its log only."""
    return [_stamp(database.with_name(database.name + ending)) for ending in ("", "-wal")]


def _is_copy(target: Path, stamp: Stamp) -> bool:
    """Whether the bucket has a file of that size that is no older."""
    found = _stamp(target)
    return found is not None and found[0] == stamp[0] and found[1] >= stamp[1]
