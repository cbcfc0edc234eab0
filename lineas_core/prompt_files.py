"""Prompts from files and pasted text, and to files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePath
from typing import Any, Literal

from lineas_core.errors import PromptError
from lineas_core.files import parse_json
from lineas_core.prompts import LONGEST_PROMPT, MOST_LINES, PromptSet, Side, is_whole
from lineas_core.spreadsheets import escaped, unescaped

# Two sides of 2,000 sentences fit; a larger file is no list of prompts.
MOST_BYTES = 1 << 20
# Lines and cells, empty ones too: a file of nothing but line breaks takes its time as well.
MOST_PLACES = 10_000
# Of the first line of a table: a few names, and not a file full of commas.
LONGEST_HEADER = 2000
# Of a note or of what an error repeats: as much as people read.
MOST_SHOWN = 200
LONGEST_TITLE = 120

Format = Literal["json", "csv", "txt"]

SIDES: tuple[Side, Side] = ("source", "target")
SET_FIELDS = {"name", "title", "modality", "concept", "license"}
PASTED = "The pasted text"
# A text without outer white space. Looking for white space before the end would begin anew at each
# blank between words.
INNER = re.compile(r"[\s\ufeff]*(.*[^\s\ufeff])?", re.DOTALL)


@dataclass(frozen=True)
class PromptLines:
    """What was read.

    Attributes:
        source: prompts without outer white space, none empty.
        target: likewise.
        notes: what was skipped or guessed, a sentence each.
        title: what the file calls the set; empty where it does not say.
        concept: what the file says that the target has; likewise.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    notes: tuple[str, ...] = ()
    title: str = ""
    concept: str = ""


def title_of_name(name: str) -> str:
    """A title for what a file holds: its name without ending and side.

    >>> title_of_name("night fog-target.txt"), title_of_name("source.txt")
    ('night fog', '')
    """
    stem = re.sub(r"(?i)(^|[\s_.-]+)(source|target)s?(?=$|[\s_.-])", " ", PurePath(name).stem)
    return clipped(" ".join(stem.split()).strip(" _.-"))


def clipped(text: object) -> str:
    """As much of a title as is kept; nothing of what is no text."""
    return text.strip()[:LONGEST_TITLE] if isinstance(text, str) and is_whole(text) else ""


def read_prompt_file(name: str, data: bytes, side: Side | None = None) -> PromptLines:
    """Prompts out of an uploaded file, by the ending of its name.

    - .txt: a prompt a line, all of `side`.
    - .csv: a header with `source`, `target` or both, in any case; separated by commas,
      semicolons or tabs. Columns may differ in length.
    - .json: a prompt set, an object of two lists, or a list of objects with `source` and `target`.
    - .jsonl: such an object a line, or one with `prompt` and `side`.

    Args:
        name: of the file; errors give it.
        data: its bytes, UTF-8 with or without a mark, 1 MiB at most; at most 2,000 prompts a side,
            none longer than 4,000 characters.
        side: where lines go that do not say; by default what the file's name says, else source.

    Raises:
        PromptError: the file is too large, not UTF-8, or not what its name says.
    """
    ending = PurePath(name).suffix.lower()
    if ending not in (".txt", ".csv", ".json", ".jsonl"):
        raise PromptError(
            f"{name} ends in {ending or 'nothing'}; give a .txt, .csv, .json or .jsonl file."
        )
    text = _decoded(name, data)
    lines = _Lines(name, side)
    if ending == ".csv":
        _read_table(lines, text)
    elif ending == ".json":
        _read_json(lines, text)
    elif ending == ".jsonl":
        _read_json_lines(lines, text)
    else:
        _read_plain(lines, text)
    return lines.done()


def read_pasted(text: str, side: Side | None = None) -> PromptLines:
    """Prompts out of pasted text: JSON, JSON lines, a table, or a prompt a line.

    A table has a header as in a .csv file, or a tab in every line (cells of a spreadsheet):
    then its first two columns are source and target.

    Args:
        text: 1 MiB at most.
        side: where lines go that do not say; source by default.

    Raises:
        PromptError: it is too long, or begins like JSON or a table and is none.
    """
    text = _decoded(PASTED, text.encode("utf-8", "replace"))
    lines = _Lines(PASTED, side)
    filled = [line for line in _split(text) if line.strip()]
    if re.match(r'\s*(\{|\[\s*["{\]])', text):
        several = len(filled) > 1 and all(_is_json_object(line) for line in filled)
        (_read_json_lines if several else _read_json)(lines, text)
    elif filled and _separator(filled[0]):
        _read_table(lines, text)
    elif filled and all("\t" in line for line in filled):
        lines.notes.append("The first two columns were taken for source and target.")
        _read_table(lines, "source\ttarget\n" + text.strip("\r\n"), first_line=0)
    else:
        _read_plain(lines, text)
    return lines.done()


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
            if len(_split(_clean(prompt))) > 1:
                raise PromptError(
                    f"{prompts.name}: {side} line {number} has a line break, and a .txt file "
                    "holds a prompt a line. Save as csv or json."
                )
        files[f"{stem}-{side}.txt"] = "".join(_clean(t) + "\n" for t in texts).encode()
    return files


class _Lines:
    """Collects the prompts of one file."""

    def __init__(self, name: str, side: Side | None) -> None:
        self.name = name
        self.notes: list[str] = []
        self.title = self.concept = ""
        self._side = side
        self._texts: dict[Side, list[str]] = {"source": [], "target": []}
        self._empty = self._places = 0

    def unsaid(self) -> Side:
        """The side of lines that do not say theirs."""
        if self._side:
            return self._side
        stem = PurePath(self.name).stem.lower()
        side: Side = "target" if stem.rfind("target") > stem.rfind("source") else "source"
        self.notes.append(f"{self.name} does not say which side its lines are; took {side}.")
        return side

    def add(self, side: Side, value: Any, where: str) -> None:
        """One more prompt; None and white space are skipped and counted."""
        if value is not None and not isinstance(value, str):
            raise PromptError(f"{self.name} {where}: {side} is {value!r:.80}; it must be a text.")
        self._places += 1
        if self._places > MOST_PLACES:
            raise PromptError(
                f"{self.name} {where}: more than {MOST_PLACES} lines or cells; that is the limit. "
                "Remove the empty ones."
            )
        text = _clean(value or "")
        if len(text) > LONGEST_PROMPT:
            raise PromptError(
                f"{self.name} {where}: {side} has {len(text)} characters; shorten it to "
                f"{LONGEST_PROMPT} at most."
            )
        if not is_whole(text):
            raise PromptError(
                f"{self.name} {where}: {side} holds half a character (a lone surrogate); "
                "write the text again."
            )
        if not text:
            self._empty += 1
            return
        self._texts[side].append(text)
        if len(self._texts[side]) > MOST_LINES:
            raise PromptError(
                f"{self.name} {where}: more than {MOST_LINES} {side} prompts; that is the limit. "
                "Remove some."
            )

    def done(self) -> PromptLines:
        source, target = (tuple(self._texts[side]) for side in SIDES)
        if not source and not target:
            raise PromptError(f"{self.name} holds no prompts; write one a line.")
        if self._empty:
            self.notes.append(f"Skipped {_count(self._empty, 'empty place')}.")
        return PromptLines(source, target, tuple(self.notes), self.title, self.concept)


def _read_plain(lines: _Lines, text: str) -> None:
    side = lines.unsaid()
    for number, line in enumerate(_split(text.rstrip()), start=1):
        lines.add(side, line, f"line {number}")


def _read_table(lines: _Lines, text: str, first_line: int = 1) -> None:
    """CSV with a header; its header is line `first_line` of what the user gave."""
    header = next((line for line in _split(text) if line.strip()), "")
    separator = _separator(header)
    if separator is None:
        raise PromptError(
            f"{lines.name} line 1: its columns are {header[:80]!r}; a table of prompts has a "
            "column source, a column target, or both."
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[str] = []
    try:
        for row in reader:
            where = f"line {reader.line_num - 1 + first_line}"
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = [_clean(cell).lower() for cell in row]
                _check_columns(lines, columns)
                continue
            # A spreadsheet may leave empty cells behind the last column.
            while len(row) > len(columns) and not row[-1].strip():
                row.pop()
            if len(row) > len(columns):
                raise PromptError(
                    f"{lines.name} {where}: has {len(row)} cells and the header {len(columns)}; "
                    'put texts that hold the separator between double quotes (").'
                )
            for column, cell in zip(columns, row, strict=False):
                if column in SIDES:
                    side: Side = "source" if column == "source" else "target"
                    lines.add(side, unescaped(cell), where)
    except csv.Error as error:
        where = f"line {reader.line_num - 1 + first_line}"
        raise PromptError(
            f"{lines.name} {where}: not a readable table ({error}). Look for a missing double "
            'quote (").'
        ) from error


def _check_columns(lines: _Lines, columns: list[str]) -> None:
    for side in SIDES:
        if columns.count(side) > 1:
            raise PromptError(f"{lines.name} line 1: has two columns {side!r}; remove one.")
    extra = [column or "(no name)" for column in columns if column not in SIDES]
    if extra:
        lines.notes.append(f"Skipped {_count(len(extra), 'column')}: {_listed(extra)}.")


def _read_json(lines: _Lines, text: str) -> None:
    data = _parsed(lines.name, text, 1)
    if isinstance(data, dict):
        if not set(data) & set(SIDES):
            raise PromptError(
                f"{lines.name}: its fields are {_listed(map(repr, data)) or '(none)'}; a prompt "
                "set has source and target, each a list of texts."
            )
        for side in SIDES:
            texts = data.get(side, [])
            if not isinstance(texts, list):
                raise PromptError(f"{lines.name}: {side} is {texts!r:.80}; it must be a list.")
            for number, item in enumerate(texts, start=1):
                lines.add(side, item, f"{side} item {number}")
        lines.title = clipped(data.get("title")) or clipped(data.get("name"))
        lines.concept = clipped(data.get("concept"))
        _note_fields(lines, set(data) - SET_FIELDS)
    elif isinstance(data, list):
        _read_records(lines, ((f"item {n}", item) for n, item in enumerate(data, start=1)))
    else:
        raise PromptError(f"{lines.name} holds {data!r:.80}; give an object or a list.")


def _read_json_lines(lines: _Lines, text: str) -> None:
    _read_records(
        lines,
        (
            (f"line {number}", _parsed(lines.name, line, number))
            for number, line in enumerate(_split(text), start=1)
            if line.strip()
        ),
    )


def _read_records(lines: _Lines, records: Iterable[tuple[str, Any]]) -> None:
    """Texts, objects with source and target, or objects with prompt and side."""
    unsaid: Side | None = None
    fields: set[str] = set()
    for where, record in records:
        if isinstance(record, str):
            record = {"prompt": record}
        if not isinstance(record, dict) or not set(record) & {*SIDES, "prompt"}:
            raise PromptError(
                f"{lines.name} {where}: is {json.dumps(record)[:80]}; give an object with source "
                "and target, or with prompt and side."
            )
        fields |= set(record) - {"prompt", "side"}
        for side in SIDES:
            if side in record:
                lines.add(side, record[side], where)
        if "prompt" in record:
            said = record.get("side")
            if said is None:
                unsaid = unsaid or lines.unsaid()
                said = unsaid
            if said not in SIDES:
                raise PromptError(
                    f"{lines.name} {where}: side is {said!r:.80}; it must be 'source' or 'target'."
                )
            lines.add(said, record["prompt"], where)
    _note_fields(lines, fields)


def _note_fields(lines: _Lines, fields: set[str]) -> None:
    extra = sorted(fields - set(SIDES))
    if extra:
        lines.notes.append(f"Skipped {_count(len(extra), 'field')}: {_listed(extra)}.")


def _parsed(name: str, text: str, line: int) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise PromptError(
            f"{name} line {error.lineno - 1 + line}: not readable JSON ({error.msg}). Mend it, or "
            "give a prompt a line as .txt."
        ) from error
    except ValueError as error:
        raise PromptError(
            f"{name} line {line}: not readable JSON ({error}). Give a list of texts a side."
        ) from error


def _decoded(name: str, data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise PromptError(
            f"{name} has {len(data):,} bytes; the limit is {MOST_BYTES:,} (1 MiB). Remove prompts."
        )
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        start = error.start
        raise PromptError(
            f"{name} line {data[:start].count(10) + 1}: byte {start + 1} "
            f"(0x{data[start]:02X}) is not UTF-8. Save the file as UTF-8 and give it again."
        ) from error


def _separator(header: str) -> str | None:
    """What parts the cells of a header that has a column source or target."""
    if len(header) > LONGEST_HEADER:
        return None
    for separator in ",;\t":
        cells = next(csv.reader([header], delimiter=separator), [])
        if {_clean(cell).lower() for cell in cells} & set(SIDES):
            return separator
    return None


def _is_json_object(line: str) -> bool:
    return line.strip().startswith("{") and line.strip().endswith("}")


def _split(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _clean(text: str) -> str:
    found = INNER.match(text)
    return (found and found[1]) or ""


def _listed(names: Iterable[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
