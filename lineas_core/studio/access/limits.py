"""Limits on requests and storage, for one visitor and for all; errors say when to try again.

Anyone can create a new key for free, so every limit per visitor has a counterpart for all visitors.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from lineas_core.errors import LineasError
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.map_files import ENDING
from lineas_core.studio.storage.store import Store
from lineas_core.system.words import counted

MINUTE, DAY = 60.0, 86_400.0
MIB = 2**20
# Cache the total size this long, instead of walking the folders for each of a series of uploads.
SECONDS_BETWEEN_WALKS = 5.0


class LimitError(LineasError, RuntimeError):
    """A limit of the host is exceeded; the message names it, and says when there is room again."""


class Rate:
    """A token bucket: it holds `most` requests, refills within a minute, and starts full.

    After a minute without requests, a whole minute's requests may therefore come at once.

    Args:
        most: maximum number of requests per minute.
        now: the current time, in seconds on a monotonic clock.
    """

    def __init__(self, most: int, now: float) -> None:
        self._most, self._left, self._seen = most, float(most), now

    def wait(self, now: float) -> float:
        """Seconds until a request is allowed; 0.0 if it is allowed now."""
        self._left = min(self._most, self._left + (now - self._seen) * self._most / MINUTE)
        self._seen = now
        return 0.0 if self._left >= 1 else (1 - self._left) * MINUTE / self._most

    def take(self) -> None:
        """Count a request that `wait` allowed."""
        self._left -= 1

    @property
    def full(self) -> bool:
        """Whether the bucket is full, so that a new one could replace it."""
        return self._left >= self._most


class Limits:
    """Checks requests and storage against the host's limits.

    Args:
        settings: the limits.
        store: holds the owners of the maps, and the prompt sets.
        library: purged of deleted maps when a visitor's storage is full.
        folders: folders outside LINEAS_HOME that count towards the total.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        library: Library,
        folders: Sequence[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._store, self._library = settings, store, library
        self._folders, self._clock = folders, clock
        self._lock = threading.Lock()
        self._all = Rate(settings.requests_in_all, clock())
        self._rates: dict[str, Rate] = {}
        # Map id -> (owner, bytes). Can be cached, since a map's file never changes.
        self._maps: dict[str, tuple[str, int]] = {}
        self._walked, self._total = -math.inf, 0

    @property
    def visitors(self) -> int:
        """Number of visitors whose requests are tracked."""
        return len(self._rates)

    def admit(self, owner: str) -> None:
        """Count a request for an answer that has to be computed.

        Raises:
            LimitError: the visitor, or all visitors, asked for too many within a minute.
        """
        settings = self._settings
        with self._lock:
            now = self._clock()
            rate = self._rates.setdefault(owner, Rate(settings.max_requests, now))
            own, others = rate.wait(now), self._all.wait(now)
            if own:
                raise LimitError(
                    f"You asked for more than {settings.max_requests} answers within a minute, "
                    f"which is the limit for a visitor. Try again in {math.ceil(own)} s."
                )
            if others:
                raise LimitError(
                    f"All visitors together asked for more than {settings.requests_in_all} answers "
                    f"within a minute, which is the limit. Try again in {math.ceil(others)} s."
                )
            rate.take()
            self._all.take()
            # Bound the memory: a full bucket is the same as a new one, so drop it.
            if len(self._rates) > settings.requests_in_all:
                for other in [*self._rates]:
                    self._rates[other].wait(now)
                    if self._rates[other].full:
                        del self._rates[other]

    def check_prompts(self, prompts: PromptSet) -> None:
        """Refuse a set that is too large to train on.

        Raises:
            LimitError: one side has too many prompts.
        """
        for side, lines in (("source", prompts.source), ("target", prompts.target)):
            if len(lines) > self._settings.max_prompts:
                raise LimitError(
                    f"{side} has {counted(len(lines), 'prompt')}, and "
                    f"{self._settings.max_prompts} is the "
                    "limit here. Leave some out, and try again."
                )

    def check_images(self, count: int, size: int) -> None:
        """Refuse an answer of too many images, or too large ones.

        Args:
            count: number of images.
            size: side of an image, in pixels.

        Raises:
            LimitError: there would be too many images or pixels.
        """
        settings = self._settings
        if count > settings.max_images:
            raise LimitError(
                f"That makes {counted(count, 'image')}, and {settings.max_images} is the "
                f"limit of one "
                "answer. Take fewer prompts or strengths, and try again."
            )
        pixels = count * size * size / 1e6
        if pixels > settings.max_megapixels:
            raise LimitError(
                f"{count} images of {size} x {size} are {pixels:.1f} million pixels, and "
                f"{settings.max_megapixels} is the limit of one answer. Take fewer prompts or "
                "strengths, and try again."
            )

    def check_room(self, owner: str, more: int = 0) -> None:
        """Refuse to store more than the visitor, or all visitors together, may.

        Args:
            owner: the visitor who would own the added data.
            more: bytes to be added.

        Raises:
            LimitError: the limit of the visitor, or that of all visitors, would be exceeded.
        """
        taken, most = self.bytes_of(owner), self._settings.max_mebibytes
        if taken + more > most * MIB:
            # The only other purge is at startup, and an app may run for months.
            self._library.purge(self._settings.keep_days * DAY)
            taken = self.bytes_of(owner)
        if taken + more > most * MIB:
            raise LimitError(
                f"Your maps and prompt sets take {taken / MIB:.1f} MiB, this would add "
                f"{more / MIB:.1f}, and {most} MiB is the limit for a visitor. Export maps and "
                f"delete them; there is room again when they are removed for good, "
                f"{self._settings.keep_days} days later."
            )
        self.check_total(more)

    def check_total(self, more: int = 0) -> None:
        """Refuse to store more than all visitors together may.

        Raises:
            LimitError: the limit of all visitors would be exceeded.
        """
        total, most = self.total_bytes(), self._settings.mebibytes_in_all
        if total + more > most * MIB:
            raise LimitError(
                f"What all visitors keep takes {total / MIB:.0f} MiB, and {most} MiB is the limit. "
                "Nothing that is there is lost. Try again in an hour, when uploads have been "
                "cleared away, or tell the host."
            )

    def bytes_of(self, owner: str) -> int:
        """Size of a visitor's maps and prompt sets in bytes, including deleted ones."""
        ids = self._store.map_ids()
        with self._lock:
            for gone in self._maps.keys() - ids:
                del self._maps[gone]
            for new in ids - self._maps.keys():
                row = self._store.map(new)
                file = self._settings.home / "maps" / f"{new}{ENDING}"
                if row is not None and file.is_file():
                    self._maps[new] = (row.owner, file.stat().st_size)
            maps = sum(size for whose, size in self._maps.values() if whose == owner)
        return maps + self._store.prompt_bytes(owner)

    def total_bytes(self) -> int:
        """Bytes in LINEAS_HOME, without its models, and in `folders`; at most a few seconds old."""
        with self._lock:
            now = self._clock()
            if now - self._walked >= SECONDS_BETWEEN_WALKS:
                home = self._settings.home
                self._total = sum(map(_bytes_below, (home, *self._folders)))
                self._walked = now
            return self._total


def size_of(prompts: PromptSet) -> int:
    """Approximate size of a prompt set in the database, in bytes."""
    return len(json.dumps(asdict(prompts)))


def _bytes_below(folder: Path) -> int:
    """Bytes of the files in a folder without `models`; files removed meanwhile do not count."""
    total = 0
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and "models" in folders:
            folders.remove("models")
        for file in files:
            try:
                total += os.lstat(os.path.join(place, file)).st_size
            except OSError:
                continue
    return total
