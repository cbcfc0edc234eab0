from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import lineas_core as lc
from lineas_core.diagnostics.copying import OPENINGS
from lineas_core.evaluation.cells import Bench
from lineas_core.evaluation.tables.concepts import TABLE, Sizes, complete
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.perplexity import perplexity
from tests.helpers.models import random_map

SMALL = Sizes(concepts=("day", "night"), methods=("lin-act",), completions=4, tokens=6)


def test_completions_are_judged_by_the_unsteered_model(
    tiny: lc.LanguageModel, tmp_path: Path
) -> None:
    bench = Bench(tiny, tmp_path)
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    made = complete(bench, smap, 1.0, 8, 10, seed=2)
    openings = [OPENINGS[i % 4] for i in range(8)]
    assert made.texts == tiny.generate(
        openings, [(smap, 1.0)], seed=list(range(1016, 1024)), max_new_tokens=10
    )
    assert made.perplexity == perplexity(tiny, openings, made.texts)
    plain = complete(bench, smap, 0.0, 8, 10, seed=2)
    assert plain.texts != made.texts
    assert plain.texts != complete(bench, smap, 0.0, 8, 10, seed=3).texts


def test_the_table_covers_concepts_methods_seeds_and_strengths(
    tiny: lc.LanguageModel, tmp_path: Path
) -> None:
    log: list[str] = []
    results = TABLE.measure(Bench(tiny, tmp_path, log.append), SMALL, [0, 1])
    assert len(results) == len(log) * 5 == 20
    assert results["concept"].tolist() == ["day"] * 10 + ["night"] * 10
    assert results["strength"].tolist() == [0, 0.25, 0.5, 0.75, 1] * 4
    plain = results[results["strength"] == 0].set_index(["concept", "seed"])["perplexity"]
    assert plain["day", 0] == plain["night", 0] != plain["day", 1]
    smap = lc.fit("lin-act", tiny, lc.PromptSet.load("night"), lc.TrainConfig.for_model(tiny))
    openings = list(OPENINGS)
    texts = tiny.generate(openings, [(smap, 0.5)], seed=[1000, 1001, 1002, 1003], max_new_tokens=6)
    row = results[(results["concept"] == "night") & (results["seed"] == 0)].iloc[2]
    assert row["presence"] == sum(concept_presence(texts, "night")) / 4
    assert row["perplexity"] == pytest.approx(perplexity(tiny, openings, texts))
    figure = Figure()
    TABLE.draw(results, figure)
    assert len(figure.axes) == 4


def test_concepts_without_words_are_refused_before_anything_is_learned(
    tiny: lc.LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(lc.ConfigError, match="there are word lists for football"):
        TABLE.measure(Bench(tiny, tmp_path), Sizes(concepts=("day", "formality")), [0])
    assert list(tmp_path.iterdir()) == []


def test_the_markdown_has_a_row_per_method_and_a_column_per_strength() -> None:
    results = pd.DataFrame(
        {
            "concept": ["day"] * 4,
            "method": ["lineas"] * 2 + ["lin-act"] * 2,
            "strength": [0.0, 1.0] * 2,
            "presence": [0.01, 0.625, 0.02, 0.3],
            "perplexity": [6.0, 9.26, 6.0, 99.0],
            "copies": [0.0, 0.04, 0.0, 0.5],
            "fit_seconds": [61.0, 61.0, 8.0, 8.0],
        }
    )
    head = ["| concept | method | s = 0 | s = 1 | fit |", "| --- | --- | --- | --- | --- |"]
    assert TABLE.write(results).splitlines() == [
        *head,
        "| day | lineas | 1% / 6.0 / 0% | 62% / 9.3 / 4% | 61 s |",
        "| day | lin-act | 2% / 6.0 / 0% | 30% / 99.0 / 50% | 8 s |",
    ]
    other = results.assign(presence=results["presence"] + 0.2)
    assert TABLE.write(pd.concat([results, other])).splitlines() == [
        *head,
        "| day | lineas | 11% ± 14% / 6.0 / 0% | 72% ± 14% / 9.3 / 4% | 61 s |",
        "| day | lin-act | 12% ± 14% / 6.0 / 0% | 40% ± 14% / 99.0 / 50% | 8 s |",
    ]
