"""Converts a packaged model, in a process of its own.

Run as `python -m lineas_core.models.language.convert ID HOME`.

transformers builds models under settings that hold for the whole process, so that a model which is
loaded in another thread meanwhile would come out empty. Prints the index of each stage that begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lineas_core.errors import LineasError
from lineas_core.models.load import convert_model
from lineas_core.models.shared.catalog import catalog


def main(arguments: list[str]) -> int:
    """Convert; 0 where the model is ready, 1 with the reason on standard error."""
    name, home = arguments
    try:
        convert_model(catalog()[name], Path(home), lambda stage: print(stage, flush=True))
    except LineasError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
