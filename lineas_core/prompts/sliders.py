"""Prompt files of Concept Sliders and LECO."""

from __future__ import annotations

from lineas_core.prompts.lines import Collector, Columns


def is_sliders(columns: Columns) -> bool:
    """Whether the columns are those of such a file."""
    names = set(columns)
    return {"target", "positive"} <= names and bool(names & {"unconditional", "neutral"})


def read_sliders(lines: Collector, columns: Columns) -> None:
    """Add the entries: a concept is `positive` minus `unconditional`.

    The fields mean what they do in `PromptSettings` of github.com/rohitgandikota/sliders: missing
    ones fall back to `target` and `unconditional`, and the action erase, the default there, swaps
    source and target.
    """
    erased = 0
    for row in zip(*columns.values(), strict=True):
        entry = {name: value for name, (_, value) in zip(columns, row, strict=True)}
        where = row[0][0]
        word = entry.get("target")
        positive = entry.get("positive") or word
        plain = entry.get("unconditional") or entry.get("neutral") or word
        if str(entry.get("action") or "erase").lower() == "erase":
            positive, plain, erased = plain, positive, erased + 1
        lines.add("source", plain, where)
        lines.add("target", positive, where)
    lines.notes.append(
        "Read as Concept Sliders: unconditional was taken for source, positive for target."
    )
    if erased:
        lines.notes.append(f"{erased} of them erase, so their source and target were swapped.")
