"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

# Machines may be slow.
SECONDS = 240

Value = TypeVar("Value")


def wait_for(found: Callable[[], Value], seconds: float = SECONDS) -> Value:
    """What `found()` gives, as soon as that is something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"nothing came in {seconds} s"
        time.sleep(0.02)
    return value
