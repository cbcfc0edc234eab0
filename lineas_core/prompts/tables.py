"""Parses tables in texts: CSV with any separator, spreadsheet cells, Markdown."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from lineas_core.errors import PromptFileError
from lineas_core.prompts.columns import (
    IGNORED,
    PAIR_NAMES,
    PAIRS,
    SIDE_NAMES,
    TEXT_NAMES,
    is_texty,
    role,
)
from lineas_core.prompts.lines import MAX_PLACES, SIDES, clean, split

# Limit for the first line of a table, which is a few names, not a whole file full of commas.
MAX_HEADER = 2000
MAX_NAME = 40
# The first line in which Excel declares the separator.
EXCEL = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")


@dataclass(frozen=True)
class TextTable:
    """A table's cells.

    Attributes:
        columns: name -> (location, cell) from top to bottom, all of the same length.
        named: whether its first line names the columns.
    """

    columns: dict[str, list[tuple[str, str]]]
    named: bool


def find_table(name: str, text: str, *, surely: bool) -> TextTable | None:
    """Parse a text as a table, or return None if it is not one.

    Args:
        name: file name, for error messages.
        text: the whole text.
        surely: the file name says that it is a table, so a line that does not fit is an error.
            Otherwise a text is a table only if all of it fits.

    Raises:
        PromptFileError: it is a table, but cannot be parsed.
    """
    lines = split(text)
    start = next((n for n, line in enumerate(lines) if line.strip()), None)
    if start is None:
        return None
    excel = EXCEL.fullmatch(lines[start])
    if excel:
        # Leave an empty line in its place, to keep the line numbers.
        lines[start] = ""
        text = "\n".join(lines)
        start = next((n for n, line in enumerate(lines) if line.strip()), None)
        if start is None:
            return None
        surely = True
    header = lines[start]
    if header.strip().startswith("|"):
        return _markdown(lines)
    if len(header) > MAX_HEADER:
        if surely and excel is None and re.match(r"\s*\"?(source|target)\b", header, re.IGNORECASE):
            raise PromptFileError(
                f"{name} line {start + 1}: its header has {len(header)} characters; "
                f"the limit is {MAX_HEADER}. Keep the columns source and target."
            )
        return None
    for separator in excel[1] if excel else "\t;,|" if surely else "\t;,":
        table = _separated(name, text, header, separator, surely)
        if table:
            return table
    return None


def _separated(name: str, text: str, header: str, separator: str, surely: bool) -> TextTable | None:
    try:
        cells = [clean(c) for c in next(csv.reader([header], delimiter=separator), [])]
    except csv.Error:
        return None
    roles = [role(cell) for cell in cells]
    named = _is_prompt_header(roles, header, separator, surely)
    if not named and len(cells) < 2 and separator != "\t" and not surely:
        return None
    try:
        rows = _rows(text, separator)
    except csv.Error as error:
        if surely and named:
            line = _line_of(text, separator)
            raise PromptFileError(
                f"{name} line {line}: not a readable table ({error}). Look for a missing double "
                'quote (").'
            ) from error
        return None
    wide = max(len(row) for _, row in rows)
    # A first cell that recurs further down in its column is not a column name.
    paired = any(set(pair) <= set(roles) for pair in PAIRS)
    again = any(
        cells[n] == clean(row[n]) != ""
        for _, row in rows[1:]
        for n in range(min(len(cells), len(row)))
    )
    named = named and (paired or not again)
    if named:
        return _named(name, rows, cells, surely)
    if wide == 1:
        # One spreadsheet column with line breaks or separators in its cells.
        quoted = any("\n" in row[0] or "\r" in row[0] for _, row in rows)
        if (separator == "\t" and quoted) or (
            surely and separator == "," and text.lstrip()[:1] == '"'
        ):
            return TextTable({"text": [(where, row[0]) for where, row in rows]}, True)
        return None
    same = len({len(row) for _, row in rows}) == 1
    if separator == "\t":
        if len(rows) < 2 or not all(len(row) > 1 for _, row in rows):
            return None
    elif not (surely and same and len(rows) > 1) or _is_prose(text, separator):
        return None
    return _unnamed(rows, wide)


def _is_prompt_header(roles: list[str], header: str, separator: str, surely: bool) -> bool:
    """Whether the first line is a header that identifies the prompt columns."""
    found = set(roles)
    pair = any(set(pair) <= found for pair in PAIRS)
    texts = bool(found & set(TEXT_NAMES))
    labels = bool(found & set(SIDE_NAMES))
    sliders = {"target", "positive"} <= found
    one = bool(found & set(SIDES))
    if surely:
        return pair or sliders or one or texts
    if len(roles) < 2:
        return False
    known = found <= {*PAIR_NAMES, *TEXT_NAMES, *SIDE_NAMES, *IGNORED}
    good = pair or sliders or (texts and labels)
    if separator == "\t":
        return good or one or (texts and known)
    # Captions are full of commas. In a table no space follows them, or all its names are known.
    return (good or one) and (known or (good and f"{separator} " not in header))


def _named(
    name: str, rows: list[tuple[str, list[str]]], cells: list[str], surely: bool
) -> TextTable | None:
    roles = [role(cell) for cell in cells]
    for side in SIDES:
        if roles.count(side) > 1:
            raise PromptFileError(f"{name} line 1: has two columns {side!r}; remove one.")
    names: list[str] = []
    for cell in cells:
        again = f"{cell} {names.count(cell) + len(names)}" if cell in names else cell
        names.append(again)
    columns: dict[str, list[tuple[str, str]]] = {column: [] for column in names}
    for where, row in rows[1:]:
        while len(row) > len(names) and not row[-1].strip():
            row.pop()
        if len(row) > len(names):
            if not surely:
                return None
            raise PromptFileError(
                f"{name} {where}: has {len(row)} cells and the header {len(names)}; "
                'put texts that hold the separator between double quotes (").'
            )
        for n, column in enumerate(names):
            columns[column].append((where, row[n] if n < len(row) else ""))
    return TextTable(columns, True) if len(rows) > 1 or surely else None


def _unnamed(rows: list[tuple[str, list[str]]], wide: int) -> TextTable:
    grid = [(where, row + [""] * (wide - len(row))) for where, row in rows]
    # A selection from a spreadsheet may have empty columns on the right.
    while wide > 2 and not any(row[wide - 1].strip() for _, row in grid):
        wide -= 1
    first, rest = grid[0][1][:wide], grid[1:]
    headed = _is_header(first, rest)
    names = [clean(cell) for cell in first] if headed else [f"column {n + 1}" for n in range(wide)]
    body = rest if headed else grid
    columns = {name: [(where, row[n]) for where, row in body] for n, name in enumerate(names)}
    return TextTable(columns, headed)


def _is_header(first: list[str], rest: list[tuple[str, list[str]]]) -> bool:
    """Whether a first line without a known name looks like a header: short, unlike the rest."""
    names = [clean(cell) for cell in first]
    if len(set(names)) < len(names) or not rest:
        return False
    if not all(0 < len(n) <= MAX_NAME and is_texty([("", n)]) for n in names):
        return False
    longer = []
    for n, name in enumerate(names):
        cells = [(where, row[n]) for where, row in rest if row[n].strip()]
        if cells and not is_texty(cells):
            # A word above a column of numbers.
            return True
        lengths = [len(cell.strip()) for _, cell in cells]
        longer.append(bool(cells) and sum(lengths) >= 2 * len(name) * len(lengths))
    return all(longer)


def _is_prose(text: str, separator: str) -> bool:
    """Whether most separators are followed by a space, as in sentences and lists of tags."""
    found = text.count(separator)
    return 2 * text.count(f"{separator} ") > found


def _rows(text: str, separator: str) -> list[tuple[str, list[str]]]:
    """(location, cells) of each non-empty row; raises csv.Error if it is not a table."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    for row in reader:
        if any(cell.strip() for cell in row):
            rows.append((f"line {reader.line_num}", row))
            if len(rows) > MAX_PLACES + 1:
                raise PromptFileError(
                    f"The table has more than {MAX_PLACES} lines; that is the limit. Remove some."
                )
    return rows


def _line_of(text: str, separator: str) -> int:
    """The line at which parsing the table fails."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for _ in reader:
            pass
    except csv.Error:
        pass
    return reader.line_num


def _markdown(lines: list[str]) -> TextTable | None:
    """Parse a Markdown table: bars at both ends of each line, and a rule below the header."""
    filled = [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]
    if len(filled) < 3 or len(filled[1][1]) > MAX_HEADER or not RULE.fullmatch(filled[1][1]):
        return None
    if not all(line.startswith("|") and line.endswith("|") for _, line in filled):
        return None
    rows = [
        (n, [c.replace("\\|", "|").strip() for c in re.split(r"(?<!\\)\|", line[1:-1])])
        for n, line in filled
    ]
    names = rows[0][1]
    if len(set(names)) < len(names) or any(len(row) != len(names) for _, row in rows):
        return None
    return TextTable(
        {name: [(f"line {n}", row[i]) for n, row in rows[2:]] for i, name in enumerate(names)}, True
    )
