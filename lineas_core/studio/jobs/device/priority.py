"""Priority on a shared device: between its steps, training waits for answers to sliders."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0


class Priority:
    """Makes training wait while answers are pending.

    Args:
        patience: maximum seconds that training waits before each step, so that it continues,
            slowly, however many sliders are moved.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience, self._clock = patience, clock
        self._changed = threading.Condition()
        self._sliding = 0

    @contextmanager
    def sliders(self) -> Iterator[None]:
        """Mark an answer as pending within the block; blocks may overlap."""
        with self._changed:
            self._sliding += 1
        try:
            yield
        finally:
            with self._changed:
                self._sliding -= 1
                self._changed.notify_all()

    def give_way(self) -> None:
        """Wait until no answer is pending, for at most `patience` seconds."""
        with self._changed:
            deadline = self._clock() + self._patience
            while self._sliding and (left := deadline - self._clock()) > 0:
                self._changed.wait(left)
