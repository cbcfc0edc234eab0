"""What to look at in a table of prompts: repeats, long and empty lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Literal

from lineas_core.prompts import LONG_PROMPT, Side

MOST_COMPARED = 500
MOST_LETTERS_COMPARED = 200
SHARED_WORDS = 0.8
SHARED_LETTERS = 0.9

Kind = Literal["duplicate", "near-duplicate", "long", "empty"]


@dataclass(frozen=True)
class LineMark:
    """Something to look at in a table of prompts.

    Attributes:
        side: source or target.
        line: counted from 1.
        kind: what is the matter.
        message: what people read, to go behind "source line 3".
    """

    side: Side
    line: int
    kind: Kind
    message: str


def line_marks(source: Sequence[str], target: Sequence[str]) -> list[LineMark]:
    """What a person should look at, line by line; one mark a line at most.

    Near duplicates (`first_like`) are looked for among the first 500 lines of a side.

    >>> [(m.side, m.line, m.kind) for m in line_marks(["a cat", "a dog", "A  cat"], [""])]
    [('source', 3, 'duplicate'), ('target', 1, 'empty')]
    """
    marks: list[LineMark] = []
    first: dict[str, tuple[Side, int]] = {}
    sides: tuple[tuple[Side, Sequence[str]], ...] = (("source", source), ("target", target))
    for side, lines in sides:
        for number, line in enumerate(lines, start=1):
            found = _mark(side, number, lines, first)
            if found:
                marks.append(LineMark(side, number, *found))
            first.setdefault(_folded(line), (side, number))
    return marks


def first_like(text: str, others: Sequence[str]) -> int | None:
    """The index of the first of `others` that is a near duplicate of `text`; None without one.

    Near duplicates share 0.8 of their words (Jaccard), or, up to 200 characters, 0.9 of their
    letters in order (`difflib.SequenceMatcher.ratio`).

    >>> first_like("A tall lion sleeps", ["a wolf", "a tall lion sleeps."])
    1
    """
    words, letters = _words(text), _folded(text)
    matcher = SequenceMatcher(None, "", letters, autojunk=False)
    for i, other in enumerate(others):
        theirs = _words(other)
        union = len(words | theirs)
        if union and len(words & theirs) >= SHARED_WORDS * union:
            return i
        if max(len(letters), len(other)) > MOST_LETTERS_COMPARED:
            continue
        matcher.set_seq1(_folded(other))
        bounds: tuple[Callable[[], float], ...] = (
            matcher.real_quick_ratio,
            matcher.quick_ratio,
            matcher.ratio,
        )
        if letters and all(bound() >= SHARED_LETTERS for bound in bounds):
            return i
    return None


def _mark(
    side: Side, number: int, lines: Sequence[str], first: dict[str, tuple[Side, int]]
) -> tuple[Kind, str] | None:
    line = lines[number - 1]
    if re.fullmatch(r"[\s\ufeff]*", line):
        return "empty", "is empty; write a prompt or remove it."
    earlier = first.get(_folded(line))
    if earlier:
        return "duplicate", f"repeats {earlier[0]} line {earlier[1]}; change or remove it."
    if len(line) > LONG_PROMPT:
        return "long", f"has {len(line)} characters; prompts over {LONG_PROMPT} slow training."
    like = first_like(line, lines[: number - 1]) if number <= MOST_COMPARED else None
    if like is not None:
        return "near-duplicate", f"almost repeats line {like + 1}; change or remove it."
    return None


# The same lines are compared again and again.
@lru_cache(maxsize=4 * MOST_COMPARED)
def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


@lru_cache(maxsize=4 * MOST_COMPARED)
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))
