"""Fuzzes the reader of bundles: `python -m tests.fuzz.fuzz_bundles -runs=10000 -seed=1`."""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["lineas_core"]):
    from tests.fuzz import bundles

from tests.fuzz.driver import Provided, fuzz


def run(choose: Provided) -> None:
    """Build and check one file."""
    bundles.check(bundles.build(choose))


if __name__ == "__main__":
    fuzz(run)
