"""Finds the source and target columns of a table, and offers a choice if they are unclear."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lineas_core.errors import PromptFileError
from lineas_core.prompts.lines import SIDES, Collector, Columns, listed
from lineas_core.prompts.prompt_set import Side
from lineas_core.prompts.sliders import is_sliders, read_sliders
from lineas_core.system.words import counted

PAIRS = (
    ("source", "target"), ("src", "tgt"), ("src", "trg"), ("from source", "to target"),
    ("from", "to"), ("before", "after"), ("negative", "positive"), ("neg", "pos"),
    ("rejected", "chosen"), ("unsteered", "steered"), ("baseline", "steered"),
    ("original", "edited"), ("original", "styled"), ("plain", "styled"), ("neutral", "styled"),
    ("without", "with"),
)  # fmt: skip
PAIR_NAMES = {name for pair in PAIRS for name in pair}
TEXT_NAMES = ("prompt", "text", "sentence", "caption", "line", "content", "comment", "comment text",
              "message", "phrase", "tweet", "review", "utterance", "description")  # fmt: skip
SIDE_NAMES = ("side", "label", "class", "type", "category", "group", "set", "kind", "polarity",
              "sentiment", "split", "y", "style")  # fmt: skip
SIDE_VALUES = (
    *PAIRS, ("0", "1"), ("false", "true"), ("no", "yes"), ("-1", "1"), ("off", "on"),
    ("label 0", "label 1"), ("base", "target"),
)  # fmt: skip
# Columns that are often stored next to prompts.
IGNORED = ("", "id", "idx", "index", "no", "nr", "n", "number", "row", "note", "notes", "key",
           "unnamed 0", "license", "weight", "seed")  # fmt: skip
NOUNS = re.compile(r"\b(prompt|text|sentence|caption|line|string|column)s?\b")
NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*%?")
MAX_COLUMNS = 64
MAX_OFFERS = 24
MAX_VALUES = 6


@dataclass(frozen=True)
class Part:
    """The cells of a column, in all rows or only some.

    Attributes:
        column: name of the column.
        beside: name of the column that selects the rows; empty for all rows.
        value: what to compare that column with: a value, or a bound for numbers.
        test: the comparison.
    """

    column: str
    beside: str = ""
    value: str = ""
    test: Literal["is", "below", "from"] = "is"

    def __str__(self) -> str:
        if not self.beside:
            return self.column
        how = {"is": "is", "below": "is below", "from": "is at least"}[self.test]
        return f"{self.column} where {self.beside} {how} {self.value}"

    def cells(self, columns: Columns) -> Iterator[tuple[str, Any]]:
        """(location, value) of each selected cell."""
        if not self.beside:
            yield from columns[self.column]
            return
        for cell, (_, said) in zip(columns[self.column], columns[self.beside], strict=True):
            number = _number(said)
            if self.test == "is":
                fits = _value(said) == _value(self.value)
            else:
                bound = float(self.value)
                fits = number is not None and (number < bound) == (self.test == "below")
            if fits:
                yield cell


@dataclass(frozen=True)
class Picked:
    """The user's choice of source and target; None leaves the side empty."""

    source: Part | None
    target: Part | None


class UnclearColumnsError(PromptFileError):
    """It is unclear which columns of a table are prompts.

    Attributes:
        offers: (part, sample of it) pairs from which to choose source and target.
    """

    def __init__(self, message: str, offers: Sequence[tuple[Part, str]]) -> None:
        super().__init__(message)
        self.offers = tuple(offers)


def read_columns(
    lines: Collector,
    columns: Columns,
    *,
    named: bool = True,
    picked: Picked | None = None,
    cell: Callable[[str], str] = str,
) -> None:
    """Add the prompts of a table.

    Args:
        lines: collects the prompts.
        columns: cells by column name; all of the same length if they are rows of a table.
        named: whether the table itself names its columns.
        picked: the user's choice of source and target, if they were asked.
        cell: conversion of each cell's text.

    Raises:
        UnclearColumnsError: the user has to choose.
        PromptFileError: no column contains texts.
    """
    if len(columns) > MAX_COLUMNS:
        raise PromptFileError(
            f"{lines.name} has {len(columns)} columns; the limit is {MAX_COLUMNS}. Keep the "
            "columns source and target."
        )
    if picked is None and named and is_sliders(columns):
        read_sliders(lines, columns)
        return
    table = _Table(lines, columns, named)
    parts = (
        [(side, part) for side, part in zip(SIDES, (picked.source, picked.target), strict=True)]
        if picked
        else table.parts()
    )
    used: set[str] = set()
    for side, part in parts:
        if part is None:
            continue
        if not {part.column, part.beside or part.column} <= set(columns):
            raise PromptFileError(f"{lines.name} has no column {part.column!r} like that.")
        used |= {part.column, part.beside}
        for where, value in part.cells(columns):
            lines.add(side or lines.unsaid(), cell(value) if isinstance(value, str) else value,
                      where)  # fmt: skip
    extra = [name or "(no name)" for name in columns if name not in used]
    if extra:
        lines.notes.append(f"Skipped {counted(len(extra), 'column')}: {listed(extra)}.")


class _Table:
    """Finds the columns that contain prompts."""

    def __init__(self, lines: Collector, columns: Columns, named: bool) -> None:
        self._lines, self._columns, self._named = lines, columns, named
        self._by_role: dict[str, str] = {}
        for name in columns:
            self._by_role.setdefault(role(name), name)
        self._texts = [name for name in columns if is_texty(columns[name])]
        self._aligned = len({len(cells) for cells in columns.values()}) < 2

    def parts(self) -> list[tuple[Side | None, Part | None]]:
        roles, texts = self._by_role, self._texts
        if not self._named:
            return self._nameless()
        pair = next((pair for pair in PAIRS if set(pair) <= set(roles)), None)
        known = next((roles[n] for n in TEXT_NAMES if n in roles and roles[n] in texts), None)
        labels = self._labels(known)
        if pair:
            source, target = (roles[name] for name in pair)
            for name in (source, target):
                if _mostly_numbers(self._columns[name]):
                    raise self._unclear(f"its column {name} holds numbers, not prompts")
            if known and _few(self._columns[source]):
                raise self._unclear(f"its column {source} repeats itself beside {known}")
            if pair != ("source", "target"):
                self._lines.notes.append(f"Took {source} for source and {target} for target.")
            both: list[tuple[Side | None, Part | None]] = [
                ("source", Part(source)),
                ("target", Part(target)),
            ]
            return both + labels if labels and self._apart(known, source, target) else both
        if labels:
            return labels
        for side in SIDES:
            if side in roles:
                return self._one_side(side, roles[side])
        if known:
            found = self._label_column(known)
            if found:
                raise self._unclear(f"its column {found} does not say source or target")
            return [(None, Part(known))]
        if len(texts) == 1 and set(roles) - {role(texts[0])} <= set(IGNORED):
            return [(None, Part(texts[0]))]
        raise self._unclear("none of its columns is called source or target")

    def _nameless(self) -> list[tuple[Side | None, Part | None]]:
        texts = self._texts
        for name in self._columns:
            if len(texts) > 1 or name not in texts:
                values = {_value(v) for _, v in self._columns[name]} - {""}
                pair = _side_values(values)
                others = [text for text in texts if text != name]
                if pair and len(others) == 1 and len(values) == 2:
                    self._lines.notes.append(f"Took {pair[1]} in {name} for target.")
                    return [(s, Part(others[0], name, v)) for s, v in zip(SIDES, pair, strict=True)]
        if len(texts) == 2 or (len(self._columns) == 2 and texts):
            source, target = texts if len(texts) == 2 else self._columns
            if not _mostly_numbers(self._columns[target]):
                self._lines.notes.append("The first two columns were taken for source and target.")
                return [("source", Part(source)), ("target", Part(target))]
        if len(texts) == 1:
            return [(None, Part(texts[0]))]
        raise self._unclear("its columns have no names")

    def _one_side(self, side: Side, name: str) -> list[tuple[Side | None, Part | None]]:
        if _mostly_numbers(self._columns[name]):
            raise self._unclear(f"its column {name} holds numbers, not prompts")
        beside = [t for t in self._texts if t != name and role(t) not in IGNORED]
        if beside:
            raise self._unclear(
                f"its column {name} stands beside {listed(beside)}, so it may hold answers or "
                "origins, not prompts"
            )
        return [(side, Part(name))]

    def _labels(self, text: str | None) -> list[tuple[Side | None, Part | None]]:
        """Prompts whose side is given by another column."""
        if text is None or not self._aligned:
            return []
        for name, cells in self._columns.items():
            if name == text:
                continue
            values = {_value(v) for _, v in cells}
            pair = _side_values(values - {""})
            words = pair is not None and pair[0] in ("source", "src") and len(values) > 1
            if pair is None or not (role(name) in SIDE_NAMES or words):
                if role(name) == "side" and values - {""}:
                    where, bad = next((w, v) for w, v in cells if not _side_values({_value(v)}))
                    raise PromptFileError(
                        f"{self._lines.name} {where}: side is {bad!r:.80}; it must be 'source' or "
                        "'target'."
                    )
                continue
            if pair != ("source", "target"):
                said = f"Took {pair[0]} in {name} for source and {pair[1]} for target."
                self._lines.notes.append(said)
            parts: list[tuple[Side | None, Part | None]] = [
                (side, Part(text, name, value)) for side, value in zip(SIDES, pair, strict=True)
            ]
            if "" in values and any(v for (_, v), (_, s) in zip(self._columns[text], cells,
                                    strict=True) if not _value(s)):  # fmt: skip
                parts.append((None, Part(text, name, "")))
            return parts
        return []

    def _label_column(self, text: str) -> str | None:
        for name in self._columns:
            if role(name) in SIDE_NAMES and role(name) != "split" and self._aligned:
                values = {_value(v) for _, v in self._columns[name]} - {""}
                if 1 < len(values) <= MAX_VALUES and name != text:
                    return name
        return None

    def _apart(self, text: str | None, source: str, target: str) -> bool:
        """Whether no row has both a source-target pair and a text with a label."""
        if text is None or not self._aligned:
            return False
        rows = zip(*(self._columns[name] for name in (text, source, target)), strict=True)
        return not any(a[1] and (b[1] or c[1]) for a, b, c in rows)

    def _unclear(self, why: str) -> PromptFileError:
        shown = [f"{name or '(no name)'} ({_sample(cells)})" for name, cells in
                 list(self._columns.items())[:8]]  # fmt: skip
        jigsaw = (
            " A Jigsaw file is read by lineas_core.load_jigsaw."
            if "comment_text" in self._columns
            else ""
        )
        start = f"{self._lines.name} line 1: its columns are {listed(map(repr, self._columns))}"
        if not self._texts:
            return PromptFileError(
                f"{start}, and none holds texts. Give a table with a column source, a column "
                f"target, or both."
            )
        return UnclearColumnsError(
            f"{start}, and {why}: {listed(shown)}. Say which is source and which is target, or "
            f"name two columns source and target.{jigsaw}",
            self._offers(),
        )

    def _offers(self) -> list[tuple[Part, str]]:
        parts = [Part(text) for text in self._texts]
        for text in self._texts if self._aligned else ():
            for name, cells in self._columns.items():
                values = list(dict.fromkeys(_value(v) for _, v in cells if _value(v)))
                numbers = [n for _, v in cells if (n := _number(v)) is not None]
                if name == text or len(values) < 2:
                    continue
                if len(values) <= MAX_VALUES and 2 * len(values) <= len(cells):
                    parts += [Part(text, name, value) for value in sorted(values)]
                elif len(numbers) > len(cells) // 2 and 0 <= min(numbers) <= max(numbers) <= 1:
                    parts += [Part(text, name, "0.5", "below"), Part(text, name, "0.5", "from")]
        found = []
        for part in parts[:MAX_OFFERS]:
            cells = list(part.cells(self._columns))
            if cells:
                found.append((part, _sample(cells)))
        return found


def role(name: str) -> str:
    """A column's name in lower case, without punctuation and nouns such as "prompt" and "text".

    >>> role("Target_Prompts"), role("Prompt"), role("From (source)")
    ('target', 'prompt', 'from source')
    """
    if re.search(r"[,;\t|]", name):
        # A line whose cells are split by another separator.
        return name.lower()
    words = " ".join(re.findall(r"[^\W_]+", name.lower()))
    bare = " ".join(NOUNS.sub(" ", words).split())
    return bare or words.removesuffix("s")


def is_texty(cells: Sequence[tuple[str, Any]]) -> bool:
    """Whether most filled cells of a column are texts, not numbers, booleans, dates or URLs."""
    filled = [v for _, v in cells if v is not None and str(v).strip()]
    good = [
        v
        for v in filled
        if isinstance(v, str)
        and _number(v) is None
        and any(map(str.isalpha, v))
        and not re.match(r"(https?://|\d{4}-\d\d-\d\d|true$|false$)", v.strip(), re.IGNORECASE)
    ]
    return 2 * len(good) > len(filled)


def _mostly_numbers(cells: Sequence[tuple[str, Any]]) -> bool:
    filled = [v for _, v in cells if v is not None and str(v).strip()]
    return 2 * sum(_number(v) is not None for v in filled) > len(filled)


def _few(cells: Sequence[tuple[str, Any]]) -> bool:
    values = [str(v).strip() for _, v in cells if v]
    return 2 * len(set(values)) <= len(values) and all(len(v.split()) < 3 for v in values)


def _side_values(values: set[str]) -> tuple[str, str] | None:
    return next((pair for pair in SIDE_VALUES if values and values <= set(pair)), None)


def _value(value: Any) -> str:
    if value is None:
        return ""
    text = str(value).strip().lower().replace("_", " ")
    return str(int(value)) if isinstance(value, float) and value == int(value) else text


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value) if abs(value) < 1e300 else None
    if not isinstance(value, str) or len(value) > 40 or not NUMBER.fullmatch(value.strip()):
        return None
    return float(value.strip().rstrip("% ").replace(",", "."))


def _sample(cells: Sequence[tuple[str, Any]]) -> str:
    value = next((str(v).strip() for _, v in cells if v is not None and str(v).strip()), "")
    return f"“{value[:50]}{'…' * (len(value) > 50)}”"
