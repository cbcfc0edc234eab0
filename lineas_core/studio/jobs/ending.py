"""SIGTERM, with which containers and services stop a program: an end in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds that a forked process has to end by itself.
GRACE = 2.0


@contextmanager
def stopping_in_order() -> Iterator[list[Callable[[], object]]]:
    """Within the block, SIGTERM is a KeyboardInterrupt, as Ctrl-C is. For the main thread only.

    Yields:
        What is called at once when the signal comes, to be added to; it must not wait.
    """
    first: list[Callable[[], object]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # A second one would cut off the end that the first one began.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for call in first:
            call()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    if hasattr(os, "register_at_fork"):
        # A process that ZeroGPU forks has nothing to bring to an end.
        os.register_at_fork(after_in_child=_end_at_once)
    try:
        yield first
    finally:
        signal.signal(signal.SIGTERM, before)


def end_forked() -> None:
    """End the processes that were forked, which would keep the ports and memory of this one."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(GRACE)
        if child.is_alive():
            child.kill()


def _end_at_once() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
