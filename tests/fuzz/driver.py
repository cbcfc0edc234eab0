"""Fuzz the reader of one kind of file with atheris, from the command line.

    python -m tests.fuzz.fuzz_maps -runs=10000 -seed=1

Options are libFuzzer's. An uncaught exception is a failure; libFuzzer then prints the name of the
file with the input. Pass that file as an argument to the same command to reproduce it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

import atheris

# Inputs encode choices and short pieces, not whole files, so they can be short.
DEFAULTS = ("-max_len=512", "-len_control=0", "-rss_limit_mb=6144", "-print_final_stats=1")


class Provided:
    """A `Chooser` that reads its choices from the bytes that atheris mutates."""

    def __init__(self, data: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(data)

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, inclusive."""
        found: int = self._provider.ConsumeIntInRange(low, high)
        return found

    def data(self, most: int) -> bytes:
        """Arbitrary bytes, at most `most` of them."""
        found: bytes = self._provider.ConsumeBytes(self.number(0, most))
        return found


def fuzz(run: Callable[[Provided], Any]) -> None:
    """Fuzz `run`. Never returns, because libFuzzer exits the process."""

    def one(data: bytes) -> None:
        run(Provided(data))

    given = {option.partition("=")[0] for option in sys.argv[1:]}
    defaults = [option for option in DEFAULTS if option.partition("=")[0] not in given]
    if "-artifact_prefix" not in given:
        defaults.append(f"-artifact_prefix={tempfile.gettempdir()}/")
    atheris.Setup([sys.argv[0], *defaults, *sys.argv[1:]], one)
    atheris.Fuzz()
