"""Reads prompts from files and pasted text, and writes them to files."""

from __future__ import annotations

import csv
import io
import re
from itertools import zip_longest
from pathlib import PurePath
from typing import Literal

from lineas_core.errors import PromptError, PromptFileError
from lineas_core.prompts.columns import Part, Picked, UnclearColumnsError, read_columns
from lineas_core.prompts.csv_injection import escaped, unescaped
from lineas_core.prompts.encodings import decoded
from lineas_core.prompts.lines import (
    SIDES,
    Collector,
    PromptLines,
    clean,
    read_plain,
    side_of_name,
    split,
    title_of_name,
)
from lineas_core.prompts.prompt_set import MAX_LINES, PromptSet, Side
from lineas_core.prompts.records import find_data, read_data
from lineas_core.prompts.tables import find_table

__all__ = [
    "MAX_BYTES", "MAX_LINES", "Part", "Picked", "PromptLines", "UnclearColumnsError",
    "read_pasted", "read_prompt_file", "side_of_name", "title_of_name", "write_prompts",
]  # fmt: skip

# Two sides of 2,000 sentences fit; a larger file is not a list of prompts.
MAX_BYTES = 1 << 20
PASTED = "The pasted text"
FENCE = re.compile(r"\s*```\w*\s*")

Format = Literal["json", "csv", "txt"]


def read_prompt_file(
    name: str, data: bytes, side: Side | None = None, picked: Picked | None = None
) -> PromptLines:
    """Read prompts from an uploaded file, detecting its format from the contents.

    - JSON, whatever the file is called: a prompt set, an object of two lists, a list of texts or of
      pairs, or objects (as a list or as JSON lines) with `source` and `target`, or with `prompt`
      and `side`.
    - YAML: the same, or the entries of Concept Sliders.
    - A table, separated by commas, semicolons or tabs, or in Markdown: with one column per side, or
      with a column of texts and one of labels. Columns may differ in length.
    - Otherwise one prompt per line, all of `side`, or below the headings Source and Target.

    Args:
        name: file name, for error messages. Its extension decides only if the contents do not: a
            broken .json is an error, not text.
        data: its bytes, at most 1 MiB, in UTF-8, UTF-16 or Windows-1252; at most 2,000 prompts per
            side, none longer than 4,000 characters.
        side: the side of lines that do not name one; by default taken from the file name, otherwise
            source.
        picked: the user's choice of source and target, in answer to an `UnclearColumnsError`.

    Raises:
        UnclearColumnsError: it is unclear which columns of a table are prompts.
        PromptFileError: the file is too large, is not text, or cannot be parsed.
    """
    _check_size(name, len(data))
    text, notes = decoded(name, data)
    return _read(name, text, PurePath(name).suffix.lower(), side, picked, notes)


def read_pasted(text: str, side: Side | None = None, picked: Picked | None = None) -> PromptLines:
    """Read prompts from pasted text: JSON, JSON lines, YAML, a table, or one prompt per line.

    A structured format is used only if the whole text fits it. Spreadsheet cells need no header:
    their first two columns are source and target.

    Args:
        text: at most 1 MiB.
        side: the side of lines that do not name one; source by default.
        picked: as for `read_prompt_file`.

    Raises:
        UnclearColumnsError: as for `read_prompt_file`.
        PromptFileError: it is too long, or contains no prompts.
    """
    _check_size(PASTED, len(text.encode("utf-8", "replace")))
    return _read(PASTED, text, "", side, picked, ())


def _read(
    name: str,
    text: str,
    ending: str,
    side: Side | None,
    picked: Picked | None,
    notes: tuple[str, ...],
) -> PromptLines:
    lines = Collector(name, side)
    lines.notes += notes
    text = _unfenced(text.removeprefix("\ufeff"))
    data = find_data(name, text, ending)
    if data is not None:
        read_data(lines, data, picked)
        return lines.done()
    table = find_table(name, text, surely=ending in (".csv", ".tsv", ".tab"))
    if table is None:
        read_plain(lines, text)
    else:
        read_columns(lines, table.columns, named=table.named, picked=picked, cell=unescaped)
    return lines.done()


def _unfenced(text: str) -> str:
    """Remove the code fence that chatbots put around files, keeping line numbers."""
    found = split(text)
    filled = [n for n, line in enumerate(found) if line.strip()]
    if len(filled) < 3 or not (FENCE.fullmatch(found[filled[0]])):
        return text
    if found[filled[-1]].strip() != "```":
        return text
    found[filled[0]] = found[filled[-1]] = ""
    return "\n".join(found)


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise PromptFileError(
            f"{name} has {size:,} bytes; the limit is {MAX_BYTES:,} (1 MiB). Remove prompts."
        )


def write_prompts(prompts: PromptSet, format: Format) -> dict[str, bytes]:
    """Return file name -> contents; reading them gives the same prompts, up to outer white space.

    CSV cells are escaped against formula injection with an apostrophe, which reading removes. Only
    JSON keeps title, concept and licence.

    Args:
        prompts: any set.
        format: json and csv give one file, txt one per side.

    Raises:
        PromptError: a prompt with several lines cannot go into a .txt file, or the format is
            unknown.
    """
    stem = re.sub(r"[^\w-]+", "-", prompts.name).strip("-") or "prompts"
    if format == "json":
        return {f"{stem}.json": prompts.to_json().encode()}
    if format == "csv":
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow(SIDES)
        for row in zip_longest(prompts.source, prompts.target, fillvalue=""):
            writer.writerow(map(escaped, row))
        # Without a byte order mark, spreadsheets assume the system's legacy encoding.
        return {f"{stem}.csv": file.getvalue().encode("utf-8-sig")}
    if format != "txt":
        raise PromptError(f"format is {format!r}; choose json, csv or txt.")
    files = {}
    for side, texts in zip(SIDES, (prompts.source, prompts.target), strict=True):
        for number, prompt in enumerate(texts, start=1):
            if len(split(clean(prompt))) > 1:
                raise PromptError(
                    f"{prompts.name}: {side} line {number} has a line break, and a .txt file "
                    "holds one prompt per line. Save as csv or json."
                )
        files[f"{stem}-{side}.txt"] = "".join(clean(t) + "\n" for t in texts).encode()
    return files
