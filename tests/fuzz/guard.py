"""Guarantees of every file reader for arbitrary input."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from lineas_core.errors import LineasError
from lineas_core.system.paths import checkout

Result = TypeVar("Result")

# CPU time, so that tests do not fail on a busy machine.
MAX_CPU_SECONDS = 2.0
MAX_MESSAGE = 4000
TELLTALE = ("Traceback", 'File "', "/tmp", "/home", str(checkout()), "site-packages")


@contextmanager
def limited(seconds: float = MAX_CPU_SECONDS) -> Iterator[None]:
    """Raise a TimeoutError in the block once it has used that much CPU time."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def promised(call: Callable[[], Result]) -> Result | None:
    """The result of the call, or None if it raises a proper `LineasError`.

    Any other exception is a failure, and so are messages that reveal details of the host or are
    too long, and calls over the time limit.
    """
    try:
        with limited():
            return call()
    except LineasError as error:
        message = str(error)
        assert message.strip(), "an empty message"
        assert len(message) <= MAX_MESSAGE, message[:500]
        told = [word for word in TELLTALE if word in message]
        assert not told, message
        message.encode()
    return None
