"""Warnings for a table of prompts: repeats are compared with difflib and word counts."""

import random
import re
from difflib import SequenceMatcher

from lineas_core.prompts.checks import MAX_COMPARED, first_like, line_issues
from tests.fuzz.guard import limited


def test_issues_name_side_line_and_problem() -> None:
    source = ["A cat sat on a mat.", "", "a  CAT sat on a mat.", "A cat sat on the mat.", "x" * 401]
    found = [str(i) for i in line_issues(source, ["Fresh words here", "A cat sat on a mat."])]
    for issue, wanted in zip(
        found,
        [
            r"error: source line 2: is empty",
            r"warning: source line 3: repeats source line 1\b",
            r"warning: source line 4: almost repeats line 1\b",
            r"warning: source line 5: has 401 characters",
            r"warning: target line 2: repeats source line 1\b",
        ],
        strict=True,
    ):
        assert re.match(wanted, issue)


def test_near_duplicates_are_those_of_the_definition() -> None:
    rng = random.Random(0)
    words = ["red", "reds", "old", "cat", "cats", "dog", "sat", "sits", "by", "the", "sea"]
    texts = [" ".join(rng.choices(words, k=rng.randint(2, 7))) for _ in range(150)]

    def alike(a: str, b: str) -> bool:
        x, y = set(a.split()), set(b.split())
        letters = SequenceMatcher(None, b, a, autojunk=False).ratio()
        return len(x & y) / len(x | y) >= 0.8 or letters >= 0.9

    for i, text in enumerate(texts):
        expected = next((j for j in range(i) if alike(text, texts[j])), None)
        assert first_like(text, texts[:i]) == expected


def test_near_duplicates_are_looked_for_among_the_first_lines_only() -> None:
    lines = [chr(0x4E00 + n) * 3 for n in range(MAX_COMPARED - 1)]
    late = ["a lamp by the old sea", "a lamp by the old seas"]
    assert [m.line for m in line_issues([*lines[1:], *late], [])] == [MAX_COMPARED]
    assert line_issues([*lines, "one more", *late], []) == []


def test_lines_of_the_same_letters_in_other_orders_take_no_time() -> None:
    rng, letters = random.Random(0), list("abcdefghijklmnopqrstuvwxyz " * 7)
    lines = []
    for _ in range(60):
        rng.shuffle(letters)
        lines.append("".join(letters))
    with limited():
        assert line_issues(lines, []) == []
