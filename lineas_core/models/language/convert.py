"""Converts a packaged model in a separate process.

Run as `python -m lineas_core.models.language.convert ID HOME`. Prints the index of each stage as it
starts.

The process is separate because transformers changes process-wide settings while it builds a model:
a model loaded by another thread in the meantime would come out empty.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lineas_core.errors import LineasError
from lineas_core.models.load import convert_model
from lineas_core.models.shared.catalog import catalog


def main(arguments: list[str]) -> int:
    """Convert; return 0 if the model is ready, or 1 with the reason on standard error."""
    name, home = arguments
    try:
        convert_model(catalog()[name], Path(home), lambda stage: print(stage, flush=True))
    except LineasError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
