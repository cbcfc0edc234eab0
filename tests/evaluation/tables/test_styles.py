from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import lineas_core as lc
from lineas_core.evaluation.cells import Bench
from lineas_core.evaluation.tables.styles import TABLE, Sizes, gain_at_equal_image, removal_set
from lineas_core.models.image.model import DiffusionModel
from tests.helpers.pipelines import small_sd


@pytest.fixture
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiffusionModel:
    small_sd().save_pretrained(tmp_path / "sd")
    model = lc.load_model(str(tmp_path / "sd"), device="cpu")
    assert isinstance(model, DiffusionModel)
    monkeypatch.setattr(
        "lineas_core.models.image.model.TRAIN_DEFAULTS",
        {"optimizer": "adamw", "rate": 1e-3, "steps": 2, "sites": r"unet\.mid_block\..*norm.*"},
    )
    # The small model reads at most sixteen letters.
    monkeypatch.setattr("lineas_core.evaluation.tables.styles.SUBJECTS", ("aa", "bb", "cc"))
    return model


@pytest.fixture
def ink(tmp_path: Path) -> str:
    prompts = lc.PromptSet(
        name="ink",
        modality="image",
        source=["ab", "ba", "cab", "bc"],
        target=["ab ink", "ba ink", "cab ink", "bc ink"],
        concept="ink",
    )
    return str(prompts.save(tmp_path / "ink.json"))


def test_the_table_covers_blocks_methods_and_strengths(
    painter: DiffusionModel, ink: str, tmp_path: Path
) -> None:
    sizes = Sizes(styles=(ink,), removals=(ink,), methods=("lineas", "lin-act"), pictures=2)
    results = TABLE.measure(Bench(painter, tmp_path / "bench"), sizes, [0])
    counts = results.groupby(["block", "method"], sort=False).size()
    assert {key: counts[key] for key in counts.index if key[1] == "lineas"} == {
        ("style", "lineas"): 5, ("removal", "lineas"): 5, ("injection", "lineas"): 5
    }  # fmt: skip
    assert set(results["scorer"]) == {"clip-emoji"}
    plain = results[results["strength"] == 0]
    assert plain["image"].tolist() == pytest.approx([1.0] * len(plain))
    style = plain[plain["block"] == "style"]["clip"].tolist()
    assert style[0] == pytest.approx(style[1])

    # Recompute the injection at full strength.
    prompts = removal_set(ink)
    smap = lc.fit("lineas", painter, prompts)
    lines = prompts.split(0.2, 0)[1].target
    images = painter.generate(lines, [(smap.inverse(), 1.0)], seed=range(2))
    untouched = painter.generate(lines, seed=range(2))
    row = results[(results["block"] == "injection") & (results["method"] == "lineas")].iloc[4]
    assert row["clip"] == pytest.approx(np.mean(lc.clip_score(images, "ink")), abs=1e-3)
    assert row["image"] == pytest.approx(np.mean(lc.img_score(images, untouched)), abs=1e-3)

    text = TABLE.write(results)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "## Styles", "## Concept removal", "## Concept injection"
    ]  # fmt: skip
    gain = gain_at_equal_image(results[results["block"] == "style"], "lineas", "lin-act")[ink]
    assert f"| mean | {gain:+.3f} |" in text
    figure = Figure()
    TABLE.draw(results, figure)
    assert len(figure.axes) == 3


def test_a_map_without_an_inverse_has_no_injection(
    painter: DiffusionModel, ink: str, tmp_path: Path
) -> None:
    log: list[str] = []
    bench = Bench(painter, tmp_path / "bench", log.append)
    prompts, config = removal_set(ink), lc.TrainConfig.for_model(painter, seed=0)
    site = "unet.mid_block.attentions.0.norm"
    singular = lc.SteeringMap({site: lc.Affine(torch.zeros(16), torch.ones(16))})
    # Store it in the cache as if it had been learned.
    key = {"method": "lineas", "prompts": prompts.hash(), "config": repr(config)}
    bench.learned(key, lambda: singular)
    sizes = Sizes(styles=(), removals=(ink,), methods=("lineas",), pictures=2)
    results = TABLE.measure(bench, sizes, [0])
    assert set(results["block"]) == {"removal"}
    assert "cannot be inverted" in log[-1]


def test_removal_sets_name_the_concept_in_their_source() -> None:
    for name in ("remove-clock", "emoji-cyberpunk"):
        found = removal_set(name)
        word = found.concept.split()[-1]
        assert sum(word in line for line in found.source) > sum(
            word in line for line in found.target
        )
    assert removal_set("remove-clock") == lc.PromptSet.load("remove-clock")


def test_gain_at_equal_image_compares_curves_not_strengths() -> None:
    def rows(method: str, points: list[tuple[float, float]]) -> list[dict]:
        return [
            {"set": "x", "method": method, "strength": i, "image": image, "clip": score}
            for i, (image, score) in enumerate(points)
        ]

    # One curve on the line 1 - image, the other 0.1 above it except at the start.
    theirs = rows("b", [(1.0, 0.0), (0.9, 0.1), (0.4, 0.6)])
    ours = rows("a", [(1.0, 0.1), (0.6, 0.5), (0.2, 0.9)])
    gains = gain_at_equal_image(pd.DataFrame(ours + theirs), "a", "b")
    assert gains["x"] == pytest.approx(0.1)


def test_gain_at_equal_image_takes_the_best_strength_that_leaves_enough_of_the_picture() -> None:
    # IMGScore falls and rises again, as when a map overshoots.
    points = {"a": [(1.0, 0.0), (0.5, 0.2), (0.8, 0.4)], "b": [(1.0, 0.1), (0.7, 0.05), (0.5, 0.3)]}
    results = pd.DataFrame(
        {"set": "x", "method": method, "strength": i, "image": image, "clip": score}
        for method, curve in points.items()
        for i, (image, score) in enumerate(curve)
    )
    strengths = np.linspace(0, 2, 20_001)
    dense = {
        m: [np.interp(strengths, range(3), axis) for axis in zip(*c, strict=True)]
        for m, c in points.items()
    }
    levels = np.linspace(0.5, 1.0, 2_001)
    best = {
        m: [clip[image >= level].max() for level in levels] for m, (image, clip) in dense.items()
    }
    wanted = np.mean(np.subtract(best["a"], best["b"]))
    assert gain_at_equal_image(results, "a", "b")["x"] == pytest.approx(wanted, abs=3e-3)
