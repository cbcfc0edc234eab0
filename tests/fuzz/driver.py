"""Runs one kind of file through atheris, from the command line.

    python -m tests.fuzz.fuzz_maps -runs=10000 -seed=1

Options are libFuzzer's. A failure is an exception that comes out; libFuzzer then names the file
that it wrote the input to, which the same command takes as an argument to run it again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

import atheris

# Inputs are choices and short pieces, not whole files.
DEFAULTS = ("-max_len=512", "-len_control=0", "-rss_limit_mb=6144", "-print_final_stats=1")


class Provided:
    """Choices out of the bytes that atheris mutates."""

    def __init__(self, data: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(data)

    def number(self, low: int, high: int) -> int:
        """Any whole number from `low` to `high`."""
        found: int = self._provider.ConsumeIntInRange(low, high)
        return found

    def data(self, most: int) -> bytes:
        """Any bytes, `most` at most."""
        found: bytes = self._provider.ConsumeBytes(self.number(0, most))
        return found


def fuzz(run: Callable[[Provided], Any]) -> None:
    """Never returns: libFuzzer ends the process."""

    def one(data: bytes) -> None:
        run(Provided(data))

    given = {option.partition("=")[0] for option in sys.argv[1:]}
    defaults = [option for option in DEFAULTS if option.partition("=")[0] not in given]
    if "-artifact_prefix" not in given:
        defaults.append(f"-artifact_prefix={tempfile.gettempdir()}/")
    atheris.Setup([sys.argv[0], *defaults, *sys.argv[1:]], one)
    atheris.Fuzz()
