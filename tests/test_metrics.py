from __future__ import annotations

import pandas as pd
import pytest

import lineas_core as lc
from lineas_core.evaluation.concepts import concept_table, evaluate_concepts, measure
from lineas_core.metrics.concepts import concept_presence
from tests.conftest import random_map


@pytest.mark.parametrize(
    ("text", "concept", "present"),
    [
        ("They play FOOTBALL.", "football", True),
        ("footballing", "football", False),
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


def test_measured_rows_are_those_of_the_texts(tiny: lc.LanguageModel) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    rows = measure(tiny, smap, "day", "random", 8, [0, 1], fit_seconds=2.0)
    assert [row.strength for row in rows] == [0, 1]
    assert all(row.completions == 8 and 0 <= row.presence <= 1 for row in rows)
    assert rows[0].perplexity != rows[1].perplexity


def test_the_table_has_a_row_per_method_and_a_column_per_strength() -> None:
    results = pd.DataFrame(
        {
            "concept": ["day"] * 4,
            "method": ["lineas"] * 2 + ["lin-act"] * 2,
            "strength": [0.0, 1.0] * 2,
            "presence": [0.01, 0.625, 0.02, 0.3],
            "perplexity": [6.0, 9.26, 6.0, 99.0],
            "fit_seconds": [61.0, 61.0, 8.0, 8.0],
        }
    )
    assert concept_table(results).splitlines() == [
        "| concept | method | s = 0 | s = 1 | fit |",
        "| --- | --- | --- | --- | --- |",
        "| day | lineas | 1% / 6.0 | 62% / 9.3 | 61 s |",
        "| day | lin-act | 2% / 6.0 | 30% / 99.0 | 8 s |",
    ]


def test_the_evaluation_covers_methods_and_strengths(tiny: lc.LanguageModel) -> None:
    told: list[str] = []
    results = evaluate_concepts(
        tiny, ["day"], ["lin-act"], completions=4, strengths=[0, 1], on_event=told.append
    )
    assert list(results["method"]) == ["lin-act"] * 2
    assert told[0] == "day: fitting lin-act"
