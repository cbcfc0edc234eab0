"""Whose quota training on a lent GPU draws on: that of the visitor who watches it.

ZeroGPU charges a call to the visitor whose request is being answered, and one that belongs to no
request to the Space. Training runs in a thread of its own, so it borrows the context of the latest
request of its owner's page, which asks for news every second.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Seconds without a request after which a page counts as closed; browsers let a page that is not in
# view ask once a minute.
ABSENT = 150.0
# Watched visitors kept: their requests hold a few KiB each.
KEPT = 1000


class Quotas:
    """The latest request of each visitor who watches a training.

    Args:
        lent: whether GPUs are lent here; elsewhere there is nothing to charge.
        host_pays: charge all training to the Space, so that it goes on without its visitor.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        *,
        lent: bool = False,
        host_pays: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._charges = lent and not host_pays
        self._clock, self._began = clock, clock()
        # Owner -> the context of the latest request, and when it was made; the latest last.
        self._latest: dict[str, tuple[contextvars.Context, float]] = {}
        self._lock = threading.Lock()

    def watch(self, owner: str) -> None:
        """Note that a visitor's page, whose request is being answered, watches a training."""
        if not self._charges:
            return
        with self._lock:
            self._latest.pop(owner, None)
            self._latest[owner] = (contextvars.copy_context(), self._clock())
            while len(self._latest) > KEPT:
                del self._latest[next(iter(self._latest))]

    def absent_for(self, owner: str) -> float:
        """Seconds since the latest request of a visitor, or since the start; 0 if the host pays."""
        if not self._charges:
            return 0.0
        _, seen = self._latest.get(owner, (None, self._began))
        return self._clock() - seen

    def charge(self, owner: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function within the latest request of a visitor; if the host pays, in none."""
        latest = self._latest.get(owner)
        if latest is None:
            return function(*args, **kwargs)
        # A context can be entered once at a time, and that of the request may be in use.
        return latest[0].copy().run(function, *args, **kwargs)
