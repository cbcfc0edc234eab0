"""Prompts from files and pasted text, and to files."""

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
from lineas_core.prompts.prompt_set import MOST_LINES, PromptSet, Side
from lineas_core.prompts.records import find_data, read_data
from lineas_core.prompts.tables import find_table

__all__ = [
    "MOST_BYTES", "MOST_LINES", "Part", "Picked", "PromptLines", "UnclearColumnsError",
    "read_pasted", "read_prompt_file", "side_of_name", "title_of_name", "write_prompts",
]  # fmt: skip

# Two sides of 2,000 sentences fit; a larger file is no list of prompts.
MOST_BYTES = 1 << 20
PASTED = "The pasted text"
FENCE = re.compile(r"\s*```\w*\s*")

Format = Literal["json", "csv", "txt"]


def read_prompt_file(
    name: str, data: bytes, side: Side | None = None, picked: Picked | None = None
) -> PromptLines:
    """Prompts out of an uploaded file, told by what it holds.

    - JSON, whatever the file is called: a prompt set, an object of two lists, a list or lines of
      objects with `source` and `target`, or with `prompt` and `side`, a list of texts or of pairs.
    - YAML: the same, or the entries of Concept Sliders.
    - A table, separated by commas, semicolons or tabs, or of Markdown: with a column a side, or
      with one of texts and one that tells the side. Columns may differ in length.
    - Else a prompt a line, all of `side`, or below the headings Source and Target.

    Args:
        name: of the file; errors give it. Its ending decides only where the contents do not: a
            broken .json is an error, not text.
        data: its bytes, 1 MiB at most, in UTF-8, UTF-16 or Windows-1252; at most 2,000 prompts a
            side, none longer than 4,000 characters.
        side: where lines go that do not say; by default what the file's name says, else source.
        picked: which columns are source and target, as an answer to `UnclearColumnsError`.

    Raises:
        UnclearColumnsError: a table does not tell which of its columns are prompts.
        PromptFileError: the file is too large, no text, or cannot be read as what it is.
    """
    _check_size(name, len(data))
    text, notes = decoded(name, data)
    return _read(name, text, PurePath(name).suffix.lower(), side, picked, notes)


def read_pasted(text: str, side: Side | None = None, picked: Picked | None = None) -> PromptLines:
    """Prompts out of pasted text: JSON, JSON lines, YAML, a table, or a prompt a line.

    Only what fits one of them as a whole is taken for it. Cells of a spreadsheet need no header:
    their first two columns are source and target.

    Args:
        text: 1 MiB at most.
        side: where lines go that do not say; source by default.
        picked: as for `read_prompt_file`.

    Raises:
        UnclearColumnsError: as for `read_prompt_file`.
        PromptFileError: it is too long, or holds no prompts.
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
    """The text without the fence that chats put around files; its lines keep their numbers."""
    found = split(text)
    filled = [n for n, line in enumerate(found) if line.strip()]
    if len(filled) < 3 or not (FENCE.fullmatch(found[filled[0]])):
        return text
    if found[filled[-1]].strip() != "```":
        return text
    found[filled[0]] = found[filled[-1]] = ""
    return "\n".join(found)


def _check_size(name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise PromptFileError(
            f"{name} has {size:,} bytes; the limit is {MOST_BYTES:,} (1 MiB). Remove prompts."
        )


def write_prompts(prompts: PromptSet, format: Format) -> dict[str, bytes]:
    """File name -> contents, such that reading gives the prompts back up to outer white space.

    CSV is safe to open in a spreadsheet: a cell that one would take for a formula gets an
    apostrophe before it, which reading takes off. Only JSON keeps title, concept and licence.

    Args:
        prompts: any set.
        format: json and csv give one file, txt one a side.

    Raises:
        PromptError: a prompt of several lines should go to a .txt file, or the format is unknown.
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
        # Spreadsheets take a file without the mark for one in the system's old encoding.
        return {f"{stem}.csv": file.getvalue().encode("utf-8-sig")}
    if format != "txt":
        raise PromptError(f"format is {format!r}; choose json, csv or txt.")
    files = {}
    for side, texts in zip(SIDES, (prompts.source, prompts.target), strict=True):
        for number, prompt in enumerate(texts, start=1):
            if len(split(clean(prompt))) > 1:
                raise PromptError(
                    f"{prompts.name}: {side} line {number} has a line break, and a .txt file "
                    "holds a prompt a line. Save as csv or json."
                )
        files[f"{stem}-{side}.txt"] = "".join(clean(t) + "\n" for t in texts).encode()
    return files
