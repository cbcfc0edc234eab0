"""Collects the prompts of one file, and reads plain text with one prompt per line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lineas_core.errors import PromptFileError
from lineas_core.prompts.prompt_set import MAX_LINES, MAX_PROMPT, Side, is_whole
from lineas_core.system.words import counted

# Column -> (location, value) of each cell, top to bottom.
Columns = Mapping[str, Sequence[tuple[str, Any]]]

# Limit on lines and cells, including empty ones: a file of only line breaks takes time to read too.
MAX_PLACES = 10_000
# Maximum number of characters that a note or an error quotes.
MAX_SHOWN = 200
MAX_TITLE = 120

SIDES: tuple[Side, Side] = ("source", "target")
# Words in a file name that determine its side; the last one counts.
NAME_WORDS: dict[str, Side] = {
    **dict.fromkeys(("source", "sources", "src", "negative", "neg", "before"), "source"),
    **dict.fromkeys(("target", "targets", "tgt", "positive", "pos", "after"), "target"),
}
# A text without outer white space. Matching trailing white space instead would start over at each
# space between words.
INNER = re.compile(r"[\s\ufeff]*(.*[^\s\ufeff])?", re.DOTALL)
HEADING = re.compile(
    r"[#*_\[\s]{0,20}(source|target)s?(?: (?:prompt|sentence|caption|text|line)s?)?[\]*_\s:]*",
    re.IGNORECASE,
)
LABELLED = re.compile(r"\s*(?:[-*•]\s+)?\**(source|target)\**\s*:\s*(\S.*)", re.IGNORECASE)
BULLET = re.compile(r"\s*(?:[-*•◦‣▪–—]\s+(?:\[[ xX]\]\s+)?|\(?(\d{1,4})[.):]\s+)(?=\S)")  # noqa: RUF001
QUOTED = re.compile(r"\s*([\"“„«])([^\"“”„«»]+)[\"“”»]\s*,?\s*")


@dataclass(frozen=True)
class PromptLines:
    """The prompts of one file or pasted text.

    The last four attributes are empty if the file does not give them.

    Attributes:
        source: prompts without outer white space, none empty.
        target: likewise.
        notes: what was skipped or guessed, one sentence each.
        title: title of the set.
        concept: what the target has and the source lacks.
        modality: "text" or "image".
        license: license of the prompts.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    notes: tuple[str, ...] = ()
    title: str = ""
    concept: str = ""
    modality: str = ""
    license: str = ""


class Collector:
    """Collects the prompts of one file.

    Args:
        name: file name, for error messages.
        side: the side of lines that do not name one; None takes it from the file name.
    """

    def __init__(self, name: str, side: Side | None) -> None:
        self.name, self.side = name, side
        self.notes: list[str] = []
        self.fields: dict[str, str] = {}
        self._texts: dict[Side, list[str]] = {"source": [], "target": []}
        self._empty = self._places = 0
        self._unsaid: Side | None = None

    def unsaid(self) -> Side:
        """The side of lines that do not name one; adds a note on the first call."""
        if self.side:
            return self.side
        if self._unsaid is None:
            said = side_of_name(self.name)
            self._unsaid = said or "source"
            self.notes.append(
                f"{self.name}: its lines went to {said}, as its name says."
                if said
                else f"{self.name} does not say which side its lines are; took source."
            )
        return self._unsaid

    def add(self, side: Side, value: Any, where: str) -> None:
        """Add a prompt; None and white space are skipped and counted."""
        if value is not None and not isinstance(value, str):
            raise PromptFileError(
                f"{self.name} {where}: {side} is {value!r:.80}; it must be a text."
            )
        self._places += 1
        if self._places > MAX_PLACES:
            raise PromptFileError(
                f"{self.name} {where}: more than {MAX_PLACES} lines or cells; that is the limit. "
                "Remove the empty ones."
            )
        text = clean(value or "")
        if len(text) > MAX_PROMPT:
            raise PromptFileError(
                f"{self.name} {where}: {side} has {len(text)} characters; shorten it to "
                f"{MAX_PROMPT} at most."
            )
        if not is_whole(text):
            raise PromptFileError(
                f"{self.name} {where}: {side} holds half a character (a lone surrogate); "
                "write the text again."
            )
        if not text:
            self._empty += 1
            return
        self._texts[side].append(text)
        if len(self._texts[side]) > MAX_LINES:
            raise PromptFileError(
                f"{self.name} {where}: more than {MAX_LINES} {side} prompts; that is the limit. "
                "Remove some."
            )

    def done(self) -> PromptLines:
        """Return everything that was collected.

        Raises:
            PromptFileError: nothing was collected.
        """
        source, target = (tuple(self._texts[side]) for side in SIDES)
        if not source and not target:
            raise PromptFileError(f"{self.name} holds no prompts; write one per line.")
        if self._empty:
            self.notes.append(f"Skipped {counted(self._empty, 'empty place')}.")
        return PromptLines(source, target, tuple(self.notes), **self.fields)


def read_plain(lines: Collector, text: str) -> None:
    """Read one prompt per line, removing list markers, quotes around each line, and headings."""
    found = split(text.rstrip())
    filled = [(n, line) for n, line in enumerate(found, start=1) if line.strip()]
    labels = [LABELLED.fullmatch(line) for _, line in filled]
    if all(labels) and len({label[1].lower() for label in labels if label}) == 2:
        for (n, _), label in zip(filled, labels, strict=True):
            if label:
                lines.add("target" if label[1].lower() == "target" else "source", label[2],
                          f"line {n}")  # fmt: skip
        return
    part: list[str] = []
    side: Side | None = None
    start = 1
    # Headings count only if the text begins with one: otherwise a later one may be a prompt.
    headed = bool(filled and HEADING.fullmatch(filled[0][1]) and len(filled) > 1)
    for n, line in enumerate(found, start=1):
        heading = HEADING.fullmatch(line) if headed else None
        if heading:
            _add_lines(lines, part, side, start)
            lines.notes.append(f"Took line {n}, “{clean(line)}”, for a heading.")
            side, part, start = "target" if heading[1].lower() == "target" else "source", [], n + 1
        else:
            part.append(line)
    _add_lines(lines, part, side, start)


def _add_lines(lines: Collector, part: Sequence[str], side: Side | None, start: int) -> None:
    if not any(line.strip() for line in part):
        # Empty lines before the first heading, or an empty text.
        return
    side = side or lines.unsaid()
    for n, line in enumerate(_bare(lines, part), start=start):
        lines.add(side, line, f"line {n}")


def _bare(lines: Collector, part: Sequence[str]) -> list[str]:
    """Remove list markers and quotes if all lines have them."""
    bare = list(part)
    filled = [n for n, line in enumerate(bare) if line.strip()]
    if len(filled) < 2:
        return bare
    intro = filled[0] if bare[filled[0]].rstrip().endswith(":") and len(filled) > 2 else None
    listed = [n for n in filled if n != intro]
    marks = [BULLET.match(bare[n]) for n in listed]
    numbers = [int(mark[1]) for mark in marks if mark and mark[1]]
    rising = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    if all(marks) and rising and len(numbers) in (0, len(marks)):
        for n in listed:
            bare[n] = BULLET.sub("", bare[n], count=1)
        lines.notes.append("Took off the marks of a list.")
        if intro is not None:
            lines.notes.append(f"Skipped its first line, “{clean(bare[intro])[:80]}”.")
            bare[intro] = ""
    quoted = [QUOTED.fullmatch(bare[n]) for n in filled]
    if all(quoted):
        for n, match in zip(filled, quoted, strict=True):
            bare[n] = match[2] if match else bare[n]
        lines.notes.append("Took off the quotes around each line.")
    return bare


def side_of_name(name: str) -> Side | None:
    """The side that a file name indicates, or None.

    >>> side_of_name("target-practice-source.txt"), side_of_name("list.txt")
    ('source', None)
    """
    words = re.findall(r"[a-z]+", PurePath(name).stem.lower())
    known = [NAME_WORDS[word] for word in words if word in NAME_WORDS]
    return known[-1] if known else None


def title_of_name(name: str) -> str:
    """A title taken from a file name: without its extension and side.

    >>> title_of_name("night fog-target.txt"), title_of_name("source.txt")
    ('night fog', '')
    """
    parts = re.split(r"([\s_.-]+)", PurePath(name).stem)
    kept = ["" if part.lower() in NAME_WORDS else part for part in parts]
    return re.sub(r"\s+", " ", "".join(kept).strip(" _.-"))[:MAX_TITLE]


def split(text: str) -> list[str]:
    """The lines of a text with any system's line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def clean(text: str) -> str:
    """A text without outer white space and byte order marks."""
    found = INNER.match(text)
    return (found and found[1]) or ""


def listed(names: Iterable[str]) -> str:
    """Join names with commas, truncated to `MAX_SHOWN` characters."""
    text = ", ".join(names)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
