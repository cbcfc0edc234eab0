"""Prompts in the train tab: rows of its table, counts, and reports on uploads."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lineas_core.prompts.checks import line_issues
from lineas_core.system.words import counted

WANTED = 32


def prompt_sheet(
    source: Sequence[str], target: Sequence[str], notes: Sequence[str] = ()
) -> tuple[list[list[str]], str]:
    """The table rows of the prompts, with the issues found in each, and the counts as HTML.

    Args:
        source: prompts of the first column.
        target: prompts of the second column.
        notes: sentences shown below the counts.
    """
    rows = max(len(source), len(target), 1)
    marks: dict[int, list[str]] = {}
    for issue in line_issues(source, target):
        marks.setdefault(issue.line or 1, []).append(f"{issue.side}: {issue.message}")
    table = [
        [
            source[n] if n < len(source) else "",
            target[n] if n < len(target) else "",
            "; ".join(marks.get(n + 1, ())),
        ]
        for n in range(rows)
    ]
    counts = " · ".join(
        f'<b class="{"ls-full" if len(side) >= WANTED else "ls-short"}">{len(side)}</b>'
        f" / {WANTED} {name}"
        for name, side in (("source", source), ("target", target))
    )
    lines = counted(len(marks), "line")
    warned = f" · {lines} marked" if marks else ""
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return table, f'<div class="ls-counts" role="status"><p>{counts}{warned}</p>{said}</div>'


def report_of(said: Sequence[tuple[str, str, Sequence[str]]]) -> str:
    """Render the outcome of each upload.

    Args:
        said: for each upload: "good", "bad" or "ask"; its name; notes about it.
    """
    signs = {"good": "✓", "bad": "✗", "ask": "?"}
    states = {"bad": " was not read", "ask": " waits for an answer"}
    rows = "".join(
        f'<li class="ls-{kind}"><span aria-hidden="true">{signs[kind]}</span> '
        f"<b>{escape(name)}</b>{states.get(kind, '')}: "
        f"{escape(' '.join(notes).removeprefix(name).lstrip(': '))}</li>"
        for kind, name, notes in said
    )
    return f'<div role="status"><ul class="ls-files">{rows}</ul></div>' if rows else ""


def columns_question(name: str) -> str:
    """Ask which columns of an upload contain prompts; `name` is "" for pasted text."""
    return (
        f'<p class="ls-hint" role="status"><b>{escape(name or "The pasted text")}</b> does not say '
        "which of its columns are prompts. Choose what the model writes now (From) and what it is "
        "to become (To).</p>"
    )
