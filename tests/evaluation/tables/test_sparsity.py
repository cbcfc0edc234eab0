from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import lineas_core as lc
from lineas_core.diagnostics.health import check_health
from lineas_core.evaluation.cells import Bench
from lineas_core.evaluation.tables import find_table
from lineas_core.evaluation.tables.layers import LayerSizes, nearest
from lineas_core.evaluation.tables.sparsity import SparsitySizes, budgeted
from lineas_core.methods.variants.sparsify import PathConfig, SparseFitter
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.perplexity import perplexity
from lineas_core.training.config import TrainConfig

SMALL = SparsitySizes(
    concepts=("football",), kept=0.5, supports=(0.1, 0.3),
    steps=(1,), curve_points=2, completions=4, tokens=3,
)  # fmt: skip


@pytest.fixture
def quick(tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> lc.LanguageModel:
    """The small model, with few steps in its shipped settings."""
    settings = {"steps": 3, "rate": 0.3, "batch_size": 40}
    monkeypatch.setattr(lc.LanguageModel, "train_defaults", settings)
    return tiny


def test_the_sparsity_table_measures_what_it_says(quick: lc.LanguageModel, tmp_path: Path) -> None:
    table = find_table("sparsity")
    log: list[str] = []
    bench = Bench(quick, tmp_path, log.append)
    results = table.measure(bench, SMALL, [0])
    assert list(results["part"]) == ["curve"] * 4 + ["budget"] * 3
    assert list(results["map"][:4]) == ["untouched", "dense", "sparse", "sparse"]
    assert list(results["map"][4:]) == ["untouched", "dense", "sparse"]
    assert len(log) == 2
    gammas = results.query("part == 'curve' and map == 'sparse'")["gamma"].tolist()
    assert gammas[1] == pytest.approx(0.5 * gammas[0])

    prompts = lc.PromptSet.load("football")
    config = TrainConfig.for_model(quick, seed=0)
    dense = bench.fit("lineas", prompts, config).map
    row = results[results["map"] == "dense"].iloc[0]
    _, held_out = prompts.split(config.holdout, config.seed)
    report = check_health(quick, dense, held_out, held_out, pooling=config.pooling)
    assert row["effect"] == pytest.approx(1 - report.training.ratio, rel=1e-3)
    assert (row["support"], row["gamma"]) == (1, 0)
    openings = [
        "Once upon a time",
        "My friends and I",
        "People often talk about",
        "The newspaper said that",
    ]
    texts = quick.generate(openings, [(dense, 1.0)], seed=range(1000, 1004), max_new_tokens=3)
    assert row["presence"] == sum(concept_presence(texts, "football")) / 4
    assert row["perplexity"] == pytest.approx(perplexity(quick, openings, texts), rel=1e-4)
    with lc.steer(quick, [(dense, 1.0)]):
        plain = quick.perplexity(lc.PromptSet.load("formality").target)
    assert row["utility"] == pytest.approx(plain, rel=1e-4)

    # Measured cells are reused, and a run with fewer steps is a different cell.
    assert table.measure(bench, SMALL, [0]).equals(results)
    assert len(log) == 2

    text = table.write(results)
    assert "| football | " in text
    assert "of 1 concepts keep 50% of the effect on at most 10% of the neurons" in text
    figure = Figure()
    table.draw(results, figure)
    assert len(figure.axes) == 2


def row(name: str, support: float, effect: float, presence: float, concept: str = "day") -> dict:
    return {
        "part": "budget", "concept": concept, "seed": 0, "map": name, "kept": 0.95,
        "gamma": 0.1, "support": support, "effect": effect, "presence": presence, "utility": 9.0,
    }  # fmt: skip


def test_what_is_kept_is_counted_from_the_untouched_model() -> None:
    results = pd.DataFrame(
        [
            row("untouched", 0, 0, 0.1), row("dense", 1, 0.8, 0.5), row("sparse", 0.08, 0.78, 0.3),
            row("untouched", 0, 0, 0.2, "night"), row("dense", 1, 0.5, 0.2, "night"),
            row("sparse", 0.2, 0.5, 0.2, "night"),
        ]
    )  # fmt: skip
    found = budgeted(results).set_index("concept")
    assert found.loc["day", "effect_kept"] == pytest.approx(0.975)
    assert found.loc["day", "presence_kept"] == pytest.approx(0.5)
    assert math.isnan(found.loc["night", "presence_kept"])
    assert "1 of 2 concepts keep 95% of the effect on at most 10%" in find_table("sparsity").write(
        results
    )


def test_sizes_of_sparsity_are_read_as_people_type_them() -> None:
    found = find_table("sparsity").sized({"steps": "100,1000", "kept": "0.9", "concepts": "day"})
    assert (found.steps, found.kept, found.concepts) == ((100, 1000), 0.9, ("day",))


def test_the_layers_table_gives_the_support_of_every_site(
    quick: lc.LanguageModel, tmp_path: Path
) -> None:
    table = find_table("layers")
    sizes = LayerSizes(couples=("1:0", "0:1"), support=0.3, ratio=0.6, steps=1, points=5)
    results = table.measure(Bench(quick, tmp_path), sizes, [0])
    sites = quick.sites("post_layernorm")
    assert list(results["site"]) == 2 * sites
    for couple, own in results.groupby("couple"):
        assert own["site_support"].mean() == pytest.approx(own["total_support"].iloc[0])
        if couple == "0:1":
            # The group penalty keeps or removes whole sites.
            assert set(own["site_support"]) <= {0.0, 1.0}
    text = table.write(results)
    assert "| football | 1, 0 | " in text
    assert "| football | 0, 1 | " in text
    figure = Figure()
    table.draw(results, figure)
    assert figure.axes[0].images[0].get_array().shape == (2, 3)


def test_the_nearest_support_is_taken(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    config = TrainConfig(holdout=0.25, batch_size=8, group=0.0)
    fitter = SparseFitter(tiny, prompts, config)
    walk = PathConfig(points=5, ratio=0.6, steps=1)
    supports = [point.support for point in fitter.path(walk)]
    assert supports[0] < supports[-1]
    for wanted in (supports[0] / 2, 1.1 * supports[1], 0.95 * supports[3], 1.0):
        found = nearest(fitter, walk, wanted).support
        assert all(abs(math.log(found / wanted)) <= abs(math.log(s / wanted)) for s in supports)


def test_the_sparsity_table_can_leave_the_curves_out(
    quick: lc.LanguageModel, tmp_path: Path
) -> None:
    table = find_table("sparsity")
    results = table.measure(Bench(quick, tmp_path), replace(SMALL, curves=()), [0])
    assert set(results["part"]) == {"budget"}
    assert "| football | " in table.write(results)
    table.draw(results, Figure())
