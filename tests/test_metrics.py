from __future__ import annotations

import pandas as pd
import pytest

import lineas_core as lc
from lineas_core.evaluation.concepts import (
    OPENINGS,
    complete,
    concept_table,
    evaluate_concepts,
)
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.perplexity import perplexity
from tests.conftest import random_map


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


def test_completions_are_judged_by_the_unsteered_model(tiny: lc.LanguageModel) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    texts, found = complete(tiny, smap, 1.0, 8)
    assert len(set(texts)) > 4
    openings = [OPENINGS[i % 4] for i in range(8)]
    assert found == perplexity(tiny, openings, texts)
    assert complete(tiny, smap, 0.0, 8).texts != texts


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
        tiny, ["day", "night"], ["lin-act"], completions=4, strengths=[0, 1], on_event=told.append
    )
    assert list(results["concept"]) == ["day", "day", "night", "night"]
    assert list(results["strength"]) == [0, 1, 0, 1]
    assert results["perplexity"][0] == results["perplexity"][2] != results["perplexity"][1]
    assert results["presence"].between(0, 1).all()
    assert told[0] == "day: fitting lin-act"
