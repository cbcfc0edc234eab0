"""Limits on requests, for one visitor and for all; errors say when to try again.

Anyone can create a new key for free, so every limit per visitor has a counterpart for all visitors.
Limits on the disk are in `ledger.py`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from lineas_core.errors import LineasError
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.settings import Settings
from lineas_core.system.words import counted

MINUTE = 60.0
MIB = 2**20


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
    """Checks requests against the host's limits.

    Args:
        settings: the limits.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._lock = threading.Lock()
        self._all = Rate(settings.requests_in_all, clock())
        self._rates: dict[str, Rate] = {}

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
