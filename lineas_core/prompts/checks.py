"""Finds repeated, long and empty lines in a table of prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Literal

from lineas_core.prompts.prompt_set import LONG_PROMPT, Side
from lineas_core.system.words import folded

MOST_COMPARED = 500
MOST_LETTERS_COMPARED = 200
SHARED_WORDS = 0.8
SHARED_LETTERS = 0.9

# The same lines are compared again and again.
_fold = lru_cache(maxsize=4 * MOST_COMPARED)(folded)

Kind = Literal["duplicate", "near-duplicate", "long", "empty"]


@dataclass(frozen=True)
class LineMark:
    """A problem with one line in a table of prompts.

    Attributes:
        side: source or target.
        line: line number, from 1.
        kind: the kind of problem.
        message: text to show after "source line 3".
    """

    side: Side
    line: int
    kind: Kind
    message: str


def line_marks(source: Sequence[str], target: Sequence[str]) -> list[LineMark]:
    """Find the problems of both sides, at most one per line.

    Near duplicates (`first_like`) are only searched for in the first 500 lines of a side.

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
            first.setdefault(_fold(line), (side, number))
    return marks


def first_like(text: str, others: Sequence[str]) -> int | None:
    """The index of the first of `others` that is a near duplicate of `text`, or None.

    Two texts are near duplicates if the Jaccard index of their words is at least 0.8 or, for texts
    of up to 200 characters, if `difflib.SequenceMatcher.ratio` is at least 0.9.

    >>> first_like("A tall lion sleeps", ["a wolf", "a tall lion sleeps."])
    1
    """
    words, letters = _words(text), _fold(text)
    places = _places(letters)
    matcher = SequenceMatcher(None, "", letters, autojunk=False)
    for i, other in enumerate(others):
        theirs = _words(other)
        union = len(words | theirs)
        if union and len(words & theirs) >= SHARED_WORDS * union:
            return i
        if max(len(letters), len(other)) > MOST_LETTERS_COMPARED:
            continue
        matcher.set_seq1(_fold(other))
        quick: tuple[Callable[[], float], ...] = (matcher.real_quick_ratio, matcher.quick_ratio)
        if not letters or any(bound() < SHARED_LETTERS for bound in quick):
            continue
        # `ratio` takes milliseconds for two texts with the same letters in a different order. Bound
        # it first: it matches at most as many letters as the longest common subsequence.
        shared = 2 * _common(places, len(letters), _fold(other))
        total = len(letters) + len(_fold(other))
        if shared >= SHARED_LETTERS * total and matcher.ratio() >= SHARED_LETTERS:
            return i
    return None


def _mark(
    side: Side, number: int, lines: Sequence[str], first: dict[str, tuple[Side, int]]
) -> tuple[Kind, str] | None:
    line = lines[number - 1]
    if re.fullmatch(r"[\s\ufeff]*", line):
        return "empty", "is empty; write a prompt or remove it."
    earlier = first.get(_fold(line))
    if earlier:
        return "duplicate", f"repeats {earlier[0]} line {earlier[1]}; change or remove it."
    if len(line) > LONG_PROMPT:
        return "long", f"has {len(line)} characters; prompts over {LONG_PROMPT} slow training."
    like = first_like(line, lines[: number - 1]) if number <= MOST_COMPARED else None
    if like is not None:
        return "near-duplicate", f"almost repeats line {like + 1}; change or remove it."
    return None


# Cached, because the same lines are compared again and again.
@lru_cache(maxsize=4 * MOST_COMPARED)
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


@lru_cache(maxsize=4 * MOST_COMPARED)
def _places(text: str) -> dict[str, int]:
    """Letter -> its positions, as a bit mask."""
    places: dict[str, int] = {}
    for i, letter in enumerate(text):
        places[letter] = places.get(letter, 0) | 1 << i
    return places


def _common(places: Mapping[str, int], length: int, other: str) -> int:
    """Length of the longest common subsequence, one bit-parallel row at a time (Hyyrö, 2004)."""
    full = (1 << length) - 1
    row = full
    for letter in other:
        matches = row & places.get(letter, 0)
        row = ((row + matches) | (row - matches)) & full
    return length - row.bit_count()
