"""What was found about one family: a row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# In the order in which they are checked and shown.
CHECKS = ("loads", "sites", "trains", "batch", "strength", "folds", "peft")


@dataclass(frozen=True)
class Cell:
    """The outcome of one check.

    Attributes:
        outcome: "yes"; "refused", with an error of this library that says why; "fails", with any
            other error or a wrong result; "" where an earlier outcome left nothing to check.
        note: what was found, or the reason.
    """

    outcome: Literal["yes", "refused", "fails", ""] = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """All outcomes of a family.

    Attributes:
        family: the model type of its config.
        cells: check -> outcome, of those that were made.
    """

    family: str
    cells: Mapping[str, Cell] = field(default_factory=dict)

    def of(self, check: str) -> Cell:
        """The outcome of a check; empty if it was not made."""
        return self.cells.get(check, Cell())

    @property
    def causal(self) -> bool:
        """Whether the family is not refused by its kind, as encoders are."""
        return self.of("loads").outcome != "refused"

    @property
    def failures(self) -> dict[str, str]:
        """Check -> what went wrong without a proper refusal."""
        return {name: cell.note for name, cell in self.cells.items() if cell.outcome == "fails"}

    def facts(self) -> dict[str, Any]:
        """The row, for printing as JSON."""
        told: dict[str, Any] = {"family": self.family}
        for name, cell in self.cells.items():
            told[name] = f"{cell.outcome}: {cell.note}" if cell.note else cell.outcome
        return told
