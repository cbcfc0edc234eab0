"""Warnings for a table of prompts: repeats are compared with difflib and word counts."""

import random
from difflib import SequenceMatcher

from lineas_core.prompts.checks import MOST_COMPARED, first_like, line_marks
from tests.fuzz.guard import limited


def test_marks_name_side_line_and_kind() -> None:
    source = ["A cat sat on a mat.", "", "a  CAT sat on a mat.", "A cat sat on the mat.", "x" * 401]
    marks = line_marks(source, ["Fresh words here", "A cat sat on a mat."])
    assert [(m.side, m.line, m.kind) for m in marks] == [
        ("source", 2, "empty"),
        ("source", 3, "duplicate"),
        ("source", 4, "near-duplicate"),
        ("source", 5, "long"),
        ("target", 2, "duplicate"),
    ]
    assert marks[1].message == "repeats source line 1; change or remove it."


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
    lines = [chr(0x4E00 + n) * 3 for n in range(MOST_COMPARED - 1)]
    late = ["a lamp by the old sea", "a lamp by the old seas"]
    assert [m.line for m in line_marks([*lines[1:], *late], [])] == [MOST_COMPARED]
    assert line_marks([*lines, "one more", *late], []) == []


def test_lines_of_the_same_letters_in_other_orders_take_no_time() -> None:
    rng, letters = random.Random(0), list("abcdefghijklmnopqrstuvwxyz " * 7)
    lines = []
    for _ in range(60):
        rng.shuffle(letters)
        lines.append("".join(letters))
    with limited():
        assert line_marks(lines, []) == []
