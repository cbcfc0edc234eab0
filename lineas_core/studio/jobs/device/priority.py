"""Who comes first on one device: training waits for sliders between its steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0


class Priority:
    """Who may use the device now.

    Args:
        patience: seconds for which training gives way before each step, at most; so that it goes
            on, slowly, however many sliders are moved.
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
        """Within the block somebody waits for an answer; blocks may overlap."""
        with self._changed:
            self._sliding += 1
        try:
            yield
        finally:
            with self._changed:
                self._sliding -= 1
                self._changed.notify_all()

    def give_way(self) -> None:
        """Wait until nobody waits for an answer, or patience is at its end."""
        with self._changed:
            deadline = self._clock() + self._patience
            while self._sliding and (left := deadline - self._clock()) > 0:
                self._changed.wait(left)
