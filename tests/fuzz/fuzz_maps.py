"""Fuzzes the reader of map files: `python -m tests.fuzz.fuzz_maps -runs=10000 -seed=1`."""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["lineas_core"]):
    from tests.fuzz import maps

from tests.fuzz.driver import Provided, fuzz


def run(choose: Provided) -> None:
    """Build and check one file."""
    maps.check(maps.build(choose))


if __name__ == "__main__":
    fuzz(run)
