"""The ledger of the disk: what the app keeps by kind, room reserved before it is taken, shares.

A key costs nothing to make, so there is a share for one key, one for a network address where that
is known, and a limit for all together. What nobody keeps (uploads, downloads, temporary files) is
removed after an hour.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.limits import MIB, LimitError
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import client_address
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.map_files import ENDING, SIDECAR
from lineas_core.studio.storage.scratch import KEPT_FOR, Scratch
from lineas_core.studio.storage.store import Store

DAY = 86_400.0
# Cache the sizes this long, instead of walking the folders for each of a series of uploads, and
# this long where a request would be refused by them.
SECONDS_BETWEEN_WALKS, SECONDS_BEFORE_REFUSAL = 5.0, 0.5
# Interval in seconds between two clean-ups.
SWEPT_EVERY = 600.0
# Bytes that stay free on a disk: the database and the log are written to it as well.
MARGIN = 16 * MIB
# Gradio serves a copy of each download.
COPIES = 2
# Folders of LINEAS_HOME, in words; all else there is of the database.
IN_WORDS = {
    "maps": "maps",
    "checkpoints": "checkpoints",
    "frames": "live frames",
    "backups": "backups",
    "models": "unfinished conversions",
}
DATABASE = "the database"

log = logging.getLogger(__name__)


class Reservation:
    """Room on the disk that somebody may fill.

    Args:
        release: called once, when the room is filled or not needed.
    """

    def __init__(self, release: Callable[[], object]) -> None:
        self._release = release

    def release(self) -> None:
        """End the reservation; what was written is counted by its files from now on."""
        release, self._release = self._release, lambda: None
        release()


class Ledger:
    """Counts what is on the disk, refuses what has no room, and removes what is old.

    Args:
        settings: the limits.
        store: holds the owners of the maps, and the prompt sets.
        library: purged of deleted maps when a visitor's storage is full.
        scratch: uploads, downloads and temporary files.
        sweepers: called with each clean-up, after that of `scratch` and the library.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        library: Library,
        scratch: Scratch,
        sweepers: Sequence[Callable[[], object]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._store, self._library = settings, store, library
        self._scratch, self._sweepers, self._clock = scratch, sweepers, clock
        self._lock = threading.RLock()
        # Map id -> (owner, bytes). Can be cached, since a map's file never changes.
        self._maps: dict[str, tuple[str, int]] = {}
        self._sizes: Mapping[str, int] = {}
        self._walked, self._added, self._reserved = -math.inf, 0, 0
        # Client -> when it sent or fetched how many bytes in the last hour, oldest first.
        self._passed: dict[str, deque[tuple[float, int]]] = {}
        # Owner -> bytes that are being added to what they keep.
        self._adding: dict[str, int] = {}
        self._closing = threading.Event()
        self._sweeper = threading.Thread(target=self._keep_sweeping, name="sweeper", daemon=True)

    def start(self) -> None:
        """Start the thread that removes what is old."""
        self._sweeper.start()

    def close(self) -> None:
        """Stop that thread."""
        self._closing.set()
        if self._sweeper.is_alive():
            self._sweeper.join()

    def sweep(self) -> None:
        """Remove what is older than it is kept."""
        self._scratch.sweep()
        self._library.purge(self._settings.keep_days * DAY)
        for sweeper in self._sweepers:
            sweeper()
        with self._lock:
            self._walked = -math.inf

    @contextmanager
    def keeping(self, owner: str, more: int) -> Iterator[None]:
        """Reserve room for what a visitor keeps, which is written within the block.

        Args:
            owner: the visitor.
            more: bytes to be added, as they will be on the disk.

        Raises:
            LimitError: the share of the visitor or the limit of all is exceeded, or the disk full.
        """
        clients = [f"key {owner}", *_known(client_address())]
        with self._lock:
            self.check_share(owner, more)
            self._check_passed(clients, more)
            reservation = self._reserve(more)
            self._pass(clients, more)
            self._adding[owner] = self._adding.get(owner, 0) + more
        try:
            yield
        finally:
            with self._lock:
                self._adding[owner] -= more
                if not self._adding[owner]:
                    del self._adding[owner]
            reservation.release()

    @contextmanager
    def download(self, owner: str, expected: int = 0) -> Iterator[Path]:
        """A new folder for files that a visitor downloads, which are written within the block.

        If the block fails, the folder is removed; else after an hour.

        Args:
            owner: the visitor.
            expected: bytes, as far as they are known.

        Raises:
            LimitError: the share of the visitor or of their address, or the limit of all, is
                exceeded, or the disk full.
        """
        clients = [f"key {owner}", *_known(client_address())]
        self._check_passed(clients, expected)
        reservation = self._reserve(COPIES * expected)
        folder = self._scratch.new_download()
        try:
            yield folder
            size = bytes_below(folder)
            with self._lock:
                self._check_passed(clients, size)
                self._check_total(max(0, COPIES * (size - expected)))
                self._pass(clients, size)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            reservation.release()

    def upload(self, address: str, length: int) -> Reservation:
        """Reserve room for an upload before its body is read.

        Args:
            address: where it comes from; "" where that is not known.
            length: of the body in bytes.

        Raises:
            LimitError: the share of the address or the limit of all is exceeded, or the disk full.
        """
        clients = _known(address)
        with self._lock:
            self._check_passed(clients, length)
            reservation = self._reserve(length)
            self._pass(clients, length)
        return reservation

    def check_share(self, owner: str, more: int = 0) -> None:
        """Refuse what would exceed a visitor's share, and what would exceed the limit of all.

        Args:
            owner: the visitor who would own the added data.
            more: bytes to be added.

        Raises:
            LimitError: the limit of the visitor, or that of all visitors, would be exceeded.
        """
        taken, most = self.bytes_of(owner), self._settings.max_mebibytes
        if taken + more > most * MIB:
            # The sweeper may have been here minutes ago.
            self._library.purge(self._settings.keep_days * DAY)
            taken = self.bytes_of(owner)
        if taken + more > most * MIB:
            raise LimitError(
                f"Your maps and prompt sets take {taken / MIB:.1f} MiB, this would add "
                f"{more / MIB:.1f}, and {most} MiB is the limit for a visitor. Export maps and "
                f"delete them; there is room again when they are removed for good, "
                f"{self._settings.keep_days} days later."
            )
        with self._lock:
            self._check_total(more)

    def bytes_of(self, owner: str) -> int:
        """Size of a visitor's maps and prompt sets in bytes, with deleted ones and coming ones."""
        ids = self._store.map_ids()
        with self._lock:
            for gone in self._maps.keys() - ids:
                del self._maps[gone]
            for new in ids - self._maps.keys():
                row = self._store.map(new)
                file = self._settings.home / "maps" / f"{new}{ENDING}"
                if row is not None and file.is_file():
                    self._maps[new] = (row.owner, _size(file) + _size(file.with_suffix(SIDECAR)))
            maps = sum(size for whose, size in self._maps.values() if whose == owner)
            return maps + self._store.prompt_bytes(owner) + self._adding.get(owner, 0)

    def sizes(self) -> Mapping[str, int]:
        """Bytes on the disk by kind, in words; at most a few seconds old."""
        with self._lock:
            if self._clock() - self._walked >= SECONDS_BETWEEN_WALKS:
                self._walk()
            return self._sizes

    def total_bytes(self) -> int:
        """Bytes of all kinds, with what is reserved; at most a few seconds old."""
        with self._lock:
            return sum(self.sizes().values()) + self._added

    def _reserve(self, more: int) -> Reservation:
        with self._lock:
            self._check_total(more)
            self._added += more
            self._reserved += more

        def release() -> None:
            with self._lock:
                # Counted as added until the next walk finds the files.
                self._reserved -= more

        return Reservation(release)

    def _check_total(self, more: int) -> None:
        settings = self._settings
        most = settings.mebibytes_in_all * MIB
        # What was reserved and released since is in the files by now.
        stale = self._added > self._reserved
        if self.total_bytes() + more > most and (
            stale or self._clock() - self._walked > SECONDS_BEFORE_REFUSAL
        ):
            self._scratch.sweep()
            self._walk()
        if (total := self.total_bytes()) + more > most:
            kinds = sorted(self._sizes.items(), key=lambda kind: -kind[1])
            largest = ", ".join(f"{name} {size / MIB:.0f}" for name, size in kinds[:3] if size)
            passing = sum(self._sizes.get(name, 0) for name in self._scratch.parts)
            remedy = (
                "Uploads, downloads and temporary files are removed within an hour: try again then."
                if total - passing + more <= most
                else "Try again when deleted maps are removed for good, or tell the host, who can "
                "free room with `lineas clean` or raise LINEAS_MOST_MIB_IN_ALL."
            )
            raise LimitError(
                f"What all visitors keep and send takes {total / MIB:.0f} MiB (in MiB: {largest}), "
                f"this would add {more / MIB:.1f}, and {settings.mebibytes_in_all} MiB is the "
                f"limit. Nothing that is there is lost. {remedy}"
            )
        for name, folder in (
            ("LINEAS_HOME", settings.home),
            ("temporary files", self._scratch.folder),
        ):
            free = shutil.disk_usage(folder).free
            if free < more + MARGIN:
                raise LimitError(
                    f"The disk of {name} is full: {free / MIB:.0f} MiB are free, this would take "
                    f"{more / MIB:.1f}, and {MARGIN // MIB} stay free. Nothing that is there is "
                    "lost. Tell the host, who can free room with `lineas clean`."
                )

    def _walk(self) -> None:
        home = self._settings.home
        sizes = dict.fromkeys((*IN_WORDS.values(), DATABASE), 0)
        with suppress(FileNotFoundError), os.scandir(home) as found:
            for entry in found:
                kind = IN_WORDS.get(entry.name, DATABASE)
                if entry.name == "models":
                    # Finished models are the host's; hidden folders are being written.
                    hidden = Path(entry.path).glob(".*")
                    sizes[kind] += sum(bytes_below(part) for part in hidden if part.is_dir())
                elif entry.is_dir(follow_symlinks=False):
                    sizes[kind] += bytes_below(Path(entry.path))
                else:
                    sizes[kind] += _size(Path(entry.path))
        for name, folder in self._scratch.parts.items():
            sizes[name] = bytes_below(folder)
        self._sizes, self._walked, self._added = sizes, self._clock(), self._reserved

    def _check_passed(self, clients: Sequence[str], more: int) -> None:
        """Refuse more than one client's share of what passes through within an hour."""
        most, now = self._settings.max_mebibytes, self._clock()
        with self._lock:
            for client in clients:
                passed = self._passed.get(client, deque())
                while passed and now - passed[0][0] >= KEPT_FOR:
                    passed.popleft()
                taken = sum(size for _, size in passed)
                if taken + more > most * MIB:
                    oldest = passed[0][0] if passed else now
                    minutes = math.ceil((KEPT_FOR - (now - oldest)) / 60)
                    raise LimitError(
                        f"What your {client.partition(' ')[0]} sent and fetched within an hour is "
                        f"{taken / MIB:.1f} MiB, this would add {more / MIB:.1f}, and {most} MiB "
                        f"is the limit. Try again in {minutes} min."
                    )

    def _pass(self, clients: Sequence[str], size: int) -> None:
        """Count bytes towards the shares of clients, and forget clients of an hour ago."""
        now = self._clock()
        for client in clients:
            self._passed.setdefault(client, deque()).append((now, size))
        if len(self._passed) > self._settings.requests_in_all:
            recent = {c: p for c, p in self._passed.items() if now - p[-1][0] < KEPT_FOR}
            self._passed = recent

    def _keep_sweeping(self) -> None:
        while not self._closing.wait(SWEPT_EVERY):
            try:
                self.sweep()
            except Exception:
                log.exception("the clean-up failed; it is tried again")


def _known(address: str) -> list[str]:
    """The client that an address is, where it is known."""
    return [f"address {address}"] if address else []


def size_of(prompts: PromptSet) -> int:
    """Approximate size of a prompt set in the database, in bytes."""
    return len(json.dumps(asdict(prompts)))


def size_of_map(smap: SteeringMap) -> int:
    """Approximate size of a map's file in bytes."""
    parts = [*smap.sites.values(), *smap.bounds.values()]
    return sum(tensor.nbytes for part in parts for tensor in part)


def bytes_below(folder: Path) -> int:
    """Bytes of the files in a folder; files that are removed meanwhile do not count."""
    return sum(_size(Path(place) / file) for place, _, files in os.walk(folder) for file in files)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
