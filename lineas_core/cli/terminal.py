"""Terminal output of the command line: results, progress, and a deferred Ctrl-C."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

# Messages go to standard error; standard output holds only results.
console = Console(stderr=True)
out = Console()


class InterruptFlag:
    """While entered, Ctrl-C sets the flag; a second Ctrl-C interrupts as usual."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._set

    def __enter__(self) -> None:
        def handle(number: int, frame: Any) -> None:
            self._set = True
            signal.signal(signal.SIGINT, self._previous)
            console.print("stopping after this step; Ctrl-C again to discard everything")

        self._previous = signal.signal(signal.SIGINT, handle)

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGINT, self._previous)


def show(value: Any, as_json: bool) -> None:
    """Print a value as JSON, or formatted for people."""
    if as_json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        out.print_json(json.dumps(value, ensure_ascii=False))


def plain(text: str) -> str:
    """Escape rich's markup in the text."""
    return escape(text)


@contextmanager
def training_progress(quiet: bool) -> Iterator[Progress]:
    """A progress bar that also shows the loss."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet) as progress:
        yield progress
