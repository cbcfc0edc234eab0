"""The rows as a page for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import transformers

from tools.architectures.row import Cell, Row

# A refusal to fold names the sites before its reason.
OF_SITES = re.compile(r"^\d+ sites? cannot be [^.]*\. [^:]*: ")
# A refusal to load begins with the model's name and type.
OF_MODEL = re.compile(r"^\S+ \(\S+\) (is )?")
# Beyond this length, a reason is told up to its colon.
LONG = 200
HEADINGS = {
    "trains": "trains",
    "batch": "batch",
    "strength": "strength",
    "folds": "folds",
    "peft": "PEFT",
}
INTRO = """\
# Families of language models

What this library does with every family that transformers {version} can load as a causal language
model, on a small random model of each. `python -m tools.architectures` makes this page; a slow test
compares the two. With `--only FAMILY` it checks a few and prints what it finds.

Of {all} families {loaded} load, and {trained} of these train with the default settings. The others
are refused, with the reasons below the table.

- **default sites**: the preset or expression, and how many sites of the small model it names.
- **trains**: `lc.train` with all defaults but 5 steps; every loss is finite, the last below the
  first.
- **batch**: prompts of unlike lengths and strengths get in one batch the texts and the pooled
  activations that they get alone. "Singly": the library runs them one by one, as the family reads
  padding as text, or as a strength per prompt cannot be told from its flattened activations.
- **strength**: at 0 the logits are those of the untouched model, bit for bit; at 1 they change.
- **folds**, **PEFT**: the checkpoint of `lc.fold`, and the adapter of `lc.to_peft`, of a random map
  at the default sites has the logits of the steered model.

Small random models show what works, not how well: a family may need other settings.
"""


def page_of(rows: Sequence[Row]) -> str:
    """The page docs/models.md.

    Args:
        rows: of all families, in the order of their names.
    """
    shown = [row for row in rows if row.of("loads").outcome == "yes"]
    notes: dict[str, int] = {}
    lines = [
        INTRO.format(
            version=transformers.__version__,
            all=len(rows),
            loaded=len(shown),
            trained=sum(row.of("trains").outcome == "yes" for row in shown),
        ),
        f"| family | default sites | {' | '.join(HEADINGS.values())} |",
        "| --- " * (2 + len(HEADINGS)) + "|",
        *(_line(row, notes) for row in shown),
        "",
        *(f"{number}. {_sentence(note)}" for note, number in notes.items()),
        "",
        "## Refused",
        "",
        *_refusals(row for row in rows if row not in shown),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: Row, notes: dict[str, int]) -> str:
    sites = row.of("sites")
    cells = [_cell(row.of(check), notes) for check in HEADINGS]
    # A bar ends a cell, also within code.
    told = sites.note.replace("|", "\\|") if sites.outcome == "yes" else _cell(sites, notes)
    return f"| {row.family} | {' | '.join([told, *cells])} |"


def _cell(cell: Cell, notes: dict[str, int]) -> str:
    if cell.outcome == "yes":
        return "singly" if cell.note == "rows run singly" else "yes"
    if not cell.outcome:
        return "-"
    number = notes.setdefault(_reason(cell.note), len(notes) + 1)
    return f"{cell.outcome} ({number})" if cell.outcome == "refused" else f"**fails** ({number})"


def _reason(note: str) -> str:
    """The first sentence of an error, without the names of a model and its sites."""
    short = re.split(r"(?<=[^.])\. ", OF_MODEL.sub("", OF_SITES.sub("", note)))[0].rstrip(".")
    return short.split(":")[0] if len(short) > LONG else short


def _sentence(reason: str) -> str:
    return f"{reason[0].upper()}{reason[1:]}."


def _refusals(rows: Iterable[Row]) -> list[str]:
    """A line for each reason, with the families that it holds for."""
    families: dict[str, list[str]] = {}
    for row in rows:
        cell = row.of("loads")
        reason = _reason(cell.note)
        if cell.outcome == "fails":
            reason = f"**fails**: {reason}"
        families.setdefault(reason, []).append(row.family)
    return [f"- {', '.join(names)}: {reason}." for reason, names in families.items()]
