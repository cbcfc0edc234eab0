"""What the command line shows: results, progress, and an interrupt that waits for its turn."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

# Standard output is for results alone.
console = Console(stderr=True)
out = Console()


class InterruptFlag:
    """While entered, Ctrl-C sets the flag; a second Ctrl-C interrupts as usual."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Whether it came."""
        return self._set

    def __enter__(self) -> None:
        def handle(number: int, frame: Any) -> None:
            self._set = True
            signal.signal(signal.SIGINT, self._previous)
            console.print("stopping after this step; Ctrl-C again to drop everything")

        self._previous = signal.signal(signal.SIGINT, handle)

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGINT, self._previous)


def show(value: Any, as_json: bool) -> None:
    """Print a value, for programs or for people."""
    if as_json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        out.print_json(json.dumps(value, ensure_ascii=False))


def plain(text: str) -> str:
    """The text with nothing in it taken for markup."""
    return escape(text)


@contextmanager
def training_progress(quiet: bool) -> Iterator[Progress]:
    """A bar with the loss beside it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet) as progress:
        yield progress
