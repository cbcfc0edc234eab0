"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd


def strength_table(results: pd.DataFrame, subject: str, cell: Callable[[Any], str]) -> str:
    """A row per subject and method, a column per strength, and what fitting took.

    Args:
        results: with the columns `subject`, method, strength and fit_seconds.
        subject: name of the first column.
        cell: a row of the results -> its text.
    """
    strengths = sorted(results["strength"].unique())
    head = [subject, "method", *(f"s = {s:g}" for s in strengths), "fit"]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for (name, method), group in results.groupby([subject, "method"], sort=False):
        cells = [cell(row) for row in group.sort_values("strength").itertuples()]
        seconds = f"{group['fit_seconds'].iloc[0]:.0f} s"
        lines.append(" | ".join([str(name), str(method), *cells, seconds]))
    return "\n".join(f"| {line} |" for line in lines)
