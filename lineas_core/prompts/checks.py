"""Finds the lines of a table of prompts that need a look, near duplicates among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from lineas_core.prompts.prompt_set import PromptIssue, Side, check_prompts
from lineas_core.system.words import folded

MAX_COMPARED = 500
MAX_LETTERS_COMPARED = 200
SHARED_WORDS = 0.8
SHARED_LETTERS = 0.9

# The same lines are compared again and again.
_fold = lru_cache(maxsize=4 * MAX_COMPARED)(folded)


def line_issues(source: Sequence[str], target: Sequence[str]) -> list[PromptIssue]:
    """The issues of single lines, near duplicates (`first_like`) included.

    Near duplicates are only searched for in the first 500 lines of a side, and not for lines that
    have another problem.

    >>> [str(i) for i in line_issues(["a tall lion sleeps", "a dog", "A  dog"], [""])]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['warning: source line 3: repeats source line 2; change or remove it.',
     'error: target line 1: is empty; write a prompt or remove it.']
    """
    found: dict[tuple[Side, int], list[PromptIssue]] = {}
    for issue in check_prompts(source, target):
        if issue.line is not None:
            found.setdefault((issue.side, issue.line), []).append(issue)
    issues: list[PromptIssue] = []
    sides: tuple[tuple[Side, Sequence[str]], ...] = (("source", source), ("target", target))
    for side, lines in sides:
        for number, line in enumerate(lines, start=1):
            here = found.get((side, number), [])
            issues += here
            if here or number > MAX_COMPARED:
                continue
            like = first_like(line, lines[: number - 1])
            if like is not None:
                message = f"almost repeats line {like + 1}; change or remove it."
                issues.append(PromptIssue("warning", side, number, message))
    return issues


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
        if max(len(letters), len(other)) > MAX_LETTERS_COMPARED:
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


# Cached, because the same lines are compared again and again.
@lru_cache(maxsize=4 * MAX_COMPARED)
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


@lru_cache(maxsize=4 * MAX_COMPARED)
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
