"""Check every causal family of the installed transformers, and write docs/models.md.

    python -m tools.architectures [--only FAMILY ...] [--processes 2]

Prints a JSON line per family; the checks are described in `checks.py`. With --only, the page is
left as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tools.architectures.page import page_of
from tools.architectures.workers import MAX_PROCESSES, check_all

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.architectures", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, metavar="FAMILY", default=[])
    parser.add_argument("--processes", type=int, choices=range(1, MAX_PROCESSES + 1), default=1)
    asked = parser.parse_args()
    rows = []
    for row in check_all(asked.only or FAMILIES, asked.processes):
        print(json.dumps(row.facts()), flush=True)
        rows.append(row)
    if not asked.only:
        PAGE.write_text(page_of(rows), "utf-8")


if __name__ == "__main__":
    main()
