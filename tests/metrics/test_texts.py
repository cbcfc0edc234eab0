from __future__ import annotations

import pytest

import lineas_core as lc
from lineas_core.metrics.concepts import concept_presence


@pytest.mark.parametrize(
    ("text", "concept", "present"),
    [
        ("They play FOOTBALL.", "football", True),
        ("footballesque", "football", False),
        ("An elephant's ear", "elephant", True),
        ("the elephantine task", "elephant", False),
        ("a kick-off at noon", "football", True),
        ("today", "day", False),
        ("knight", "night", False),
        ("the trout, perhaps", "fishing", True),
        ("", "night", False),
    ],
)
def test_concept_words_are_matched_whole(text: str, concept: str, present: bool) -> None:
    assert concept_presence([text], concept) == [present]


def test_unknown_concepts_are_named() -> None:
    with pytest.raises(lc.ConfigError, match=r"'sailing'; there are word lists for football"):
        concept_presence(["x"], "sailing")
