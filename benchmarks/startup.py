"""How fast the app starts: `python -m benchmarks.startup`.

Seconds from the start of app.py to the page's first response, divided by the seconds of the
imports it cannot avoid, measured alternately.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence

from benchmarks.machine import extent, ratios, report
from benchmarks.serving import serving

IMPORTS = "import torch, gradio"


def measure_startup(runs: int) -> None:
    """Print the ratio over `runs` starts."""
    pages, imports = [], []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        imports.append(time.perf_counter() - began)
        with serving() as server:
            pages.append(server.seconds)
    pairs = ratios(pages, imports)
    report(
        "seconds from start to page, over those of its imports",
        statistics.median(pairs),
        spread=extent(pairs),
        seeds=[],
        seconds=pages,
        import_seconds=imports,
        target_seconds_added=2.0,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--runs", type=int, default=3, help="starts")
    measure_startup(parser.parse_args(argv).runs)


if __name__ == "__main__":
    main()
