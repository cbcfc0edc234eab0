from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.evaluation.cells import Bench
from lineas_core.evaluation.tables.steps import HOLDOUT, TABLE, Sizes, first_prompts
from lineas_core.numerics.transport import delta

SMALL = Sizes(
    concepts=("day",),
    prompts=(2, 6),
    steps=(1, 3),
    methods=("lin-act",),
    fixed=6,
    limit=3,
    completions=4,
    tokens=4,
)


def test_fewer_prompts_are_among_more_and_none_is_held_out() -> None:
    whole = lc.PromptSet.load("night")
    _, held_out = whole.split(HOLDOUT, 3)
    before: set[str] = set()
    for count in (4, 9, 40):
        found = first_prompts(whole, count, 3)
        for side, kept in ((found.source, held_out.source), (found.target, held_out.target)):
            assert len(set(side)) == len(side) == count
            assert not set(side) & set(kept)
        assert before < set(found.source)
        before = set(found.source)
    assert first_prompts(whole, 9, 3) == first_prompts(whole, 9, 3) != first_prompts(whole, 9, 4)
    with pytest.raises(lc.ConfigError, match="41 prompts a side are asked for; 'night' has 40"):
        first_prompts(whole, 41, 3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_prompts_are_repeated_which_changes_no_distance(
    tiny: lc.LanguageModel, count: int
) -> None:
    found = first_prompts(lc.PromptSet.load("night"), count, 0)
    assert len(found.source) >= 4
    site = tiny.sites("post_layernorm")[-1]
    once, repeated = (
        [
            pooled_activations(tiny, tiny.prepare(lines), [site])[site]
            for lines in (found.source[:many], found.target[:many])
        ]
        for many in (count, len(found.source))
    )
    torch.testing.assert_close(delta(*once), delta(*repeated))


def test_the_table_has_a_row_for_everything_that_is_varied(
    tiny: lc.LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lc.LanguageModel, "train_defaults", {"steps": 2, "rate": 0.05})
    results = TABLE.measure(Bench(tiny, tmp_path), SMALL, [0])
    assert results["block"].tolist() == ["data"] * 2 + ["steps"] * 2 + ["cost"] + ["stop"] * 3
    assert results["prompts"].tolist() == [2, 6, 6, 6, 6, 6, 6, 6]
    assert results["steps done"].tolist()[:4] == [2, 2, 1, 3]
    assert (results["seconds"] > 0).all()
    # Recompute the one-step map, and the share it closes.
    whole = lc.PromptSet.load("day")
    config = lc.TrainConfig.for_model(tiny, steps=1, holdout=0.0)
    smap = lc.fit("lineas", tiny, first_prompts(whole, 6, 0), config)
    _, held_out = whole.split(HOLDOUT, 0)
    sites = list(smap.sites)
    aim = pooled_activations(tiny, tiny.prepare(held_out.target), sites)

    def distance(strength: float) -> float:
        with lc.steer(tiny, [(smap, strength)]):
            z = pooled_activations(tiny, tiny.prepare(held_out.source), sites)
        return sum(float(delta(z[s], aim[s]).mean()) for s in sites)

    assert results["closed"][2] == pytest.approx(1 - distance(1.0) / distance(0.0), rel=1e-3)

    text = TABLE.write(results)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "## Prompts a side", "## Steps", "## Method", "## Training"
    ]  # fmt: skip
    assert sum(line.startswith("| day") for line in text.splitlines()) == 8
    figure = Figure()
    TABLE.draw(results, figure)
    assert len(figure.axes) == 3


def test_a_file_is_judged_by_the_words_of_its_name(
    tiny: lc.LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lc.LanguageModel, "train_defaults", {"steps": 1})
    file = lc.PromptSet.load("night").save(tmp_path / "more.json")
    sizes = replace(SMALL, concepts=(str(file),), prompts=(4,), steps=(), methods=())
    results = TABLE.measure(Bench(tiny, tmp_path), sizes, [0])
    assert results["presence"].between(0, 1).all()
    assert not math.isnan(results["closed"][0])
