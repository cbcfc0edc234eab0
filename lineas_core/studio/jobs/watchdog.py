"""A watchdog for a job's work, with which another thread detects a step that hangs."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable

# A step is overdue after TIMES times the median of the previous steps, and at least MIN_SECONDS.
TIMES, MIN_SECONDS = 20.0, 300.0
# Limit of the first steps, and of all other work: a fit, a health check, waiting for a lent GPU.
OTHER_SECONDS = 1800.0
MAX_REMEMBERED = 101


class Watchdog:
    """Records the progress of one job, and reports when the current step is overdue.

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
        """Record the end of work other than a step; the first call follows loading the model."""
        with self._lock:
            self._last, self._stepping = self._clock(), False

    def step(self) -> None:
        """Record the end of a step that is followed by another one."""
        with self._lock:
            now = self._clock()
            if self._last is not None and self._stepping:
                self._steps.append(now - self._last)
            self._last, self._stepping = now, True

    def overdue(self) -> str:
        """A message that says why the work seems to hang; "" if it does not."""
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
        """Whether the work was abandoned."""
        return self._given_up.is_set()

    @property
    def _usual(self) -> float:
        """Median seconds per step; 0.0 if not known yet."""
        return statistics.median(self._steps) if self._steps else 0.0
