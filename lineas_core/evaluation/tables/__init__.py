"""The papers' tables and figures, one per file: `lineas evaluate NAME`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lineas_core.errors import ConfigError

if TYPE_CHECKING:
    from lineas_core.evaluation.report import Table

NAMES = (
    "concepts", "toxicity", "sparsity", "composition", "layers", "truthfulness", "styles", "steps",
    "rivals",
)  # fmt: skip


def find_table(name: str) -> Table:
    """The table of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in NAMES:
        raise ConfigError(f"table is {name!r}; choose one of {', '.join(NAMES)}.")
    table: Table = import_module(f"lineas_core.evaluation.tables.{name}").TABLE
    return table
