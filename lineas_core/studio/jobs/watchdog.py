"""A watchdog for the work on a job: another thread notices a step that does not end."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable

# A step may take so many times the median of those before it, and so many seconds in any case.
TIMES, MIN_SECONDS = 20.0, 300.0
# The first steps, and what is none, such as a fit, a health check or waiting for a lent GPU.
OTHER_SECONDS = 1800.0
MAX_REMEMBERED = 101


class Watchdog:
    """When the work on one job moved last, and whether it may take that long.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._last: float | None = None
        self._stepping = False
        self._steps: deque[float] = deque(maxlen=MAX_REMEMBERED)
        self._given_up = threading.Event()

    def beat(self) -> None:
        """Some work other than a step has ended; loading comes before the first."""
        with self._lock:
            self._last, self._stepping = self._clock(), False

    def step(self) -> None:
        """A step has ended, and another follows."""
        with self._lock:
            now = self._clock()
            if self._last is not None and self._stepping:
                self._steps.append(now - self._last)
            self._last, self._stepping = now, True

    def overdue(self) -> str:
        """Why the work seems to hang, in words; "" while it does not."""
        with self._lock:
            if self._last is None:
                return ""
            silent, usual = self._clock() - self._last, self._usual
            known = self._stepping and usual
            limit = max(MIN_SECONDS, TIMES * usual) if known else OTHER_SECONDS
        if silent <= limit:
            return ""
        took = f", and one took {usual:.2g} s before" if usual else ""
        what = "A training step" if self._stepping else "A part of the work that is no step"
        return f"{what} has not ended for {silent:.0f} s{took}."

    def give_up(self) -> None:
        """Abandon the work: it ends at its next check and keeps nothing."""
        self._given_up.set()

    @property
    def given_up(self) -> bool:
        """Whether it was abandoned."""
        return self._given_up.is_set()

    @property
    def _usual(self) -> float:
        """Seconds between two steps; 0.0 where that is not known yet."""
        return statistics.median(self._steps) if self._steps else 0.0
