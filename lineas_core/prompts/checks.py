"""What to look at in a table of prompts: repeats, long and empty lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Literal

from lineas_core.prompts.prompt_set import LONG_PROMPT, Side

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
    places = _places(letters)
    matcher = SequenceMatcher(None, "", letters, autojunk=False)
    for i, other in enumerate(others):
        theirs = _words(other)
        union = len(words | theirs)
        if union and len(words & theirs) >= SHARED_WORDS * union:
            return i
        if max(len(letters), len(other)) > MOST_LETTERS_COMPARED:
            continue
        matcher.set_seq1(_folded(other))
        quick: tuple[Callable[[], float], ...] = (matcher.real_quick_ratio, matcher.quick_ratio)
        if not letters or any(bound() < SHARED_LETTERS for bound in quick):
            continue
        # The last step takes milliseconds where two texts have the same letters in another order;
        # no text has more letters in common than its longest common subsequence.
        shared = 2 * _common(places, len(letters), _folded(other))
        total = len(letters) + len(_folded(other))
        if shared >= SHARED_LETTERS * total and matcher.ratio() >= SHARED_LETTERS:
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


@lru_cache(maxsize=4 * MOST_COMPARED)
def _places(text: str) -> dict[str, int]:
    """Letter -> the places where it is, as the bits of a number."""
    places: dict[str, int] = {}
    for i, letter in enumerate(text):
        places[letter] = places.get(letter, 0) | 1 << i
    return places


def _common(places: Mapping[str, int], length: int, other: str) -> int:
    """Length of the longest common subsequence, a row of its table at a time (Hyyrö, 2004)."""
    full = (1 << length) - 1
    row = full
    for letter in other:
        matches = row & places.get(letter, 0)
        row = ((row + matches) | (row - matches)) & full
    return length - row.bit_count()
