"""Equal steps of a slider give equal changes, on prompts that no map was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest
import torch

import lineas_core as lc
from lineas_core.diagnostics.calibration import calibrate
from lineas_core.maps.calibration import Calibration
from lineas_core.models.image.model import DiffusionModel
from tests.studio.storage.test_gallery import IMAGES, TEXTS, load

pytestmark = [pytest.mark.embedded, pytest.mark.thorough]

TENTHS = [tenth / 10 for tenth in range(11)]
# A seed that no calibration uses.
SEED = 1000


@pytest.fixture(scope="module")
def painter() -> DiffusionModel:
    model = lc.load_model("emoji-onestep", device="cpu")
    assert isinstance(model, DiffusionModel)
    return model


def held_out(prompts: lc.PromptSet, model: lc.LanguageModel | DiffusionModel) -> list[str]:
    config = lc.TrainConfig.for_model(model)
    return list(prompts.split(config.holdout, config.seed)[1].source)


def unevenness(way: Sequence[float]) -> float:
    """Ratio of the largest to the smallest tenth."""
    steps = [abs(b - a) for a, b in pairwise(way)]
    return max(steps) / min(steps)


def picture_way(
    model: DiffusionModel, smap: lc.SteeringMap, prompts: list[str], strengths: Sequence[float]
) -> list[float]:
    """Mean 1 - IMGScore at each strength, over two pictures per prompt."""
    lines = prompts * 2
    seeds = range(SEED, SEED + len(lines))
    plain = model.generate(lines, seed=seeds)
    return [
        1 - fmean(lc.img_score(model.generate(lines, [(smap, s)], seed=seeds), plain, device="cpu"))
        for s in strengths
    ]


@pytest.mark.parametrize("entry", IMAGES, ids=lambda entry: entry["id"])
def test_a_shipped_look_comes_evenly(painter: DiffusionModel, entry: dict[str, Any]) -> None:
    smap = load(entry)
    curve = Calibration(tuple(map(tuple, entry["calibration"])))
    prompts = held_out(lc.PromptSet.load(entry["prompts"]), painter)
    way = picture_way(painter, smap, prompts, [curve.strength(share) for share in TENTHS])
    assert unevenness(way) < 2, way


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("emoji-art-nouveau", 15),
        pytest.param("emoji-anime", 45, marks=pytest.mark.slow),
        pytest.param("emoji-pencil-sketch", 15, marks=pytest.mark.slow),
    ],
)
def test_a_look_that_was_just_trained_comes_evenly(
    painter: DiffusionModel, name: str, steps: int
) -> None:
    prompts = lc.PromptSet.load(name)
    smap = lc.train(painter, prompts, lc.TrainConfig.for_model(painter, steps=steps)).map
    seen = held_out(prompts, painter)
    curve = calibrate(painter, smap, seen)
    assert curve
    way = picture_way(painter, smap, seen, [curve.strength(share) for share in TENTHS])
    assert unevenness(way) < 2, way


@pytest.mark.parametrize("entry", TEXTS, ids=lambda entry: entry["id"])
def test_a_shipped_topic_comes_evenly(smollm2: lc.LanguageModel, entry: dict[str, Any]) -> None:
    smap = load(entry)
    curve = Calibration(tuple(map(tuple, entry["calibration"])))
    prompts = held_out(lc.PromptSet.load(entry["prompts"]), smollm2)

    def distributions(strength: float) -> torch.Tensor:
        with lc.steer(smollm2, [(smap, strength)]):
            return smollm2.next_token_log_probs(prompts).exp()

    plain = distributions(0.0)

    def far(strength: float) -> float:
        """Mean Jensen-Shannon divergence: the entropy of the mean minus the mean entropy."""
        steered = distributions(strength)
        middle, sides = entropy((plain + steered) / 2), (entropy(plain), entropy(steered))
        return float((middle - sum(sides) / 2).mean())

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -(p * p.clamp_min(1e-30).log()).sum(dim=-1)

    assert unevenness([far(curve.strength(share)) for share in TENTHS]) < 3
