"""What a visitor may ask for, and all visitors together; who asks for more is told when to come.

A key costs nothing to make, so every limit of a visitor has one of all visitors beside it.
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
# A walk through the folder is not made for every file of a row of uploads.
SECONDS_BETWEEN_WALKS = 5.0


class LimitError(LineasError, RuntimeError):
    """A limit of the host is reached; the message names it, and says when there is room again."""


class Rate:
    """So many requests a minute: a bucket that a minute fills, and that each request takes one of.

    Somebody who was quiet for a minute may ask for a minute's requests at once.

    Args:
        most: requests a minute.
        now: seconds on a monotonic clock.
    """

    def __init__(self, most: int, now: float) -> None:
        self._most, self._left, self._seen = most, float(most), now

    def wait(self, now: float) -> float:
        """Seconds until there is room for a request; 0.0 where there is."""
        self._left = min(self._most, self._left + (now - self._seen) * self._most / MINUTE)
        self._seen = now
        return 0.0 if self._left >= 1 else (1 - self._left) * MINUTE / self._most

    def take(self) -> None:
        """Count a request that there was room for."""
        self._left -= 1

    @property
    def full(self) -> bool:
        """Whether no request has to be remembered."""
        return self._left >= self._most


class Limits:
    """The host's limits, as they stand now.

    Args:
        settings: the limits.
        store: tells whose the maps are.
        library: tells the prompt sets.
        folders: outside LINEAS_HOME that count too.
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
        # Map id -> owner and bytes: a map's file never changes.
        self._maps: dict[str, tuple[str, int]] = {}
        self._walked, self._total = -math.inf, 0

    @property
    def visitors(self) -> int:
        """How many visitors' requests are remembered."""
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
            # Keys without end would fill the memory; those that are quiet are as good as new.
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
            count: of the images.
            size: pixels on a side.

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
        """Refuse to keep more than there is room for.

        Args:
            owner: whose it would be.
            more: bytes that are to be added.

        Raises:
            LimitError: the visitor's share, or the room of all, is used up.
        """
        taken, most = self.bytes_of(owner), self._settings.max_mebibytes
        if taken + more > most * MIB:
            # Else an app that is never restarted would never remove anything.
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
        """Refuse to keep more than there is room for in all.

        Raises:
            LimitError: the room of all visitors is used up.
        """
        total, most = self.total_bytes(), self._settings.mebibytes_in_all
        if total + more > most * MIB:
            raise LimitError(
                f"What all visitors keep takes {total / MIB:.0f} MiB, and {most} MiB is the limit. "
                "Nothing that is there is lost. Try again in an hour, when uploads have been "
                "cleared away, or tell the host."
            )

    def bytes_of(self, owner: str) -> int:
        """What a visitor's maps and prompt sets take, deleted ones included."""
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
        """What LINEAS_HOME, without the models, and the uploads take; a few seconds old at most."""
        with self._lock:
            now = self._clock()
            if now - self._walked >= SECONDS_BETWEEN_WALKS:
                home = self._settings.home
                self._total = sum(map(_bytes_below, (home, *self._folders)))
                self._walked = now
            return self._total


def size_of(prompts: PromptSet) -> int:
    """Bytes that a prompt set takes in the database, about."""
    return len(json.dumps(asdict(prompts)))


def _bytes_below(folder: Path) -> int:
    """Of the files in a folder; those that vanish meanwhile are not counted."""
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
