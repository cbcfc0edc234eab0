"""Run all benchmarks that need no GPU, in sequence: `python -m benchmarks`, `make bench`.

Each benchmark runs in its own process, so that none is affected by the memory or caches of another.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

NAMES = ("training", "steering", "sweeps", "folding", "growth", "startup", "slider")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, or all; returns 1 if any failed."""
    names = list(sys.argv[1:] if argv is None else argv) or list(NAMES)
    failed = []
    for name in names:
        began = time.monotonic()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
