from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.methods.variants.refine import cross_steered, refine
from tests.helpers.models import random_map

CONFIG = lc.TrainConfig(steps=1, rate=0.5, batch_size=32, holdout=0)


SETS = [
    lc.PromptSet(
        name="letters",
        source=["abc abc", "aab", "a cab", "cc ab", "ab", "bb aa cc"],
        target=["xyz xyz", "xxy", "x zyx", "zz xy", "xy", "yy xx zz", "zyxy"],
    ),
    lc.PromptSet(
        name="digits",
        source=["abc abc", "aab", "cc ab", "ba ca", "bbb", "cab cab"],
        target=["123 123", "112", "33 12", "21 31", "222"],
    ),
]


@pytest.fixture(scope="module")
def learned(tiny: lc.LanguageModel) -> list[tuple[lc.SteeringMap, lc.PromptSet]]:
    config = lc.TrainConfig(steps=6, rate=0.5, holdout=0)
    return [(lc.fit("lineas", tiny, each, config), each) for each in SETS]


def objective(
    tiny: lc.LanguageModel,
    smap: lc.SteeringMap,
    learned: list[tuple[lc.SteeringMap, lc.PromptSet]],
) -> float:
    """The loss computed directly from its formula, on whole prompt sets, in float64."""
    lines = dict.fromkeys(line for _, each in learned for line in each.source)
    with lc.steer(tiny, [(smap, 1.0)]):
        source = pooled_activations(tiny, tiny.prepare(list(lines)), list(smap.sites))
    total = 0.0
    for k, (_, each) in enumerate(learned):
        others = [(other, 1.0) for j, (other, _) in enumerate(learned) if j != k]
        with lc.steer(tiny, others):
            target = pooled_activations(tiny, tiny.prepare(each.target), list(smap.sites))
        for site in smap.sites:
            z, y = source[site].double().numpy(), target[site].double().numpy()
            # Repeat rows so that both sides have equally many; quantiles are then sorted rows.
            rows = math.lcm(len(z), len(y))
            z, y = (np.sort(np.repeat(v, rows // len(v), axis=0), axis=0) for v in (z, y))
            total += float(((z - y) ** 2).mean()) / len(learned)
    return total


def test_the_first_step_goes_down_the_gradient_of_the_formula(
    tiny: lc.LanguageModel, learned: list[tuple[lc.SteeringMap, lc.PromptSet]]
) -> None:
    start = lc.compose([(smap, 1.0) for smap, _ in learned])
    losses: list[float] = []
    moved = refine(tiny, learned, CONFIG, on_event=lambda event: losses.append(event.loss))
    assert losses == [pytest.approx(objective(tiny, start, learned), rel=1e-5)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        along = {
            site: tuple(torch.randn(d, generator=generator) for _ in range(2))
            for site, d in start.widths.items()
        }

        def shifted(size: float, along: dict[str, tuple[torch.Tensor, ...]] = along) -> float:
            sites = {
                site: lc.Affine(a.scale + size * along[site][0], a.shift + size * along[site][1])
                for site, a in start.sites.items()
            }
            return objective(tiny, lc.SteeringMap(sites), learned)

        slope = (shifted(1e-3) - shifted(-1e-3)) / 2e-3
        # The first step has the full rate, so the change is -rate * gradient.
        change = sum(
            float((m - s) @ v)
            for site in start.sites
            for m, s, v in zip(moved.sites[site], start.sites[site], along[site], strict=True)
        )
        assert -change / CONFIG.rate == pytest.approx(slope, rel=0.02)


def test_refinement_comes_nearer_to_all_targets(
    tiny: lc.LanguageModel, learned: list[tuple[lc.SteeringMap, lc.PromptSet]]
) -> None:
    start = lc.compose([(smap, 1.0) for smap, _ in learned])
    config = lc.TrainConfig(steps=15, rate=0.5, batch_size=32, holdout=0)
    refined = refine(tiny, learned, config)
    assert objective(tiny, refined, learned) < 0.9 * objective(tiny, start, learned)
    assert list(refined.sites) == list(start.sites)
    assert (refined.info.method, refined.info.model) == ("refined", tiny.id)
    assert refined.info.name == "letters + digits"
    assert refined.info.config["steps"] == 15


def test_one_map_has_its_own_target_and_stays_if_it_is_there(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    sites = tiny.sites("post_layernorm")
    (own,) = cross_steered(
        tiny, [(random_map(dict.fromkeys(sites, 16), 1), prompts)], sites, CONFIG
    )
    plain = pooled_activations(tiny, tiny.prepare(prompts.target), sites)
    assert all(torch.equal(own[site], plain[site]) for site in sites)
    smap = lc.fit("lineas", tiny, prompts, lc.TrainConfig(steps=60, rate=0.5, holdout=0))
    refined = refine(tiny, [(smap, prompts)], lc.TrainConfig(steps=3, rate=0.5, holdout=0))

    def apart(a: lc.SteeringMap, b: lc.SteeringMap) -> float:
        moved = [torch.cat(a.sites[site]) - torch.cat(b.sites[site]) for site in sites]
        return float(torch.cat(moved).norm())

    identity = lc.SteeringMap.identity(smap.widths)
    assert apart(refined, smap) < 0.1 * apart(smap, identity)


def test_the_penalty_and_the_stop_are_those_of_training(
    tiny: lc.LanguageModel, learned: list[tuple[lc.SteeringMap, lc.PromptSet]]
) -> None:
    strong = lc.TrainConfig(steps=1, rate=0.5, holdout=0, gamma=100.0)
    assert refine(tiny, learned, strong).support() == 0
    start = lc.compose([(smap, 1.0) for smap, _ in learned])
    stopped = refine(tiny, learned, CONFIG, should_stop=lambda: True)
    for site, (scale, shift) in start.sites.items():
        torch.testing.assert_close(stopped.sites[site].scale, scale)
        assert torch.equal(stopped.sites[site].shift, shift)


def test_held_out_prompts_take_no_part(
    tiny: lc.LanguageModel, learned: list[tuple[lc.SteeringMap, lc.PromptSet]]
) -> None:
    sites, config = list(learned[0][0].sites), lc.TrainConfig(holdout=0.3)
    found = cross_steered(tiny, learned, sites, config)
    for aims, (_, each) in zip(found, learned, strict=True):
        assert len(aims[sites[0]]) == len(each.split(0.3, 0)[0].target) < len(each.target)


def test_what_cannot_be_refined_is_refused(
    tiny: lc.LanguageModel, learned: list[tuple[lc.SteeringMap, lc.PromptSet]]
) -> None:
    with pytest.raises(lc.ConfigError, match="maps is empty"):
        refine(tiny, [], CONFIG)
    elsewhere = random_map({"transformer.h.0": 16}, 0)
    with pytest.raises(lc.SiteError, match=r"no module 'transformer\.h\.0'"):
        refine(tiny, [learned[0], (elsewhere, learned[1][1])], CONFIG)
    wide = random_map({next(iter(learned[0][0].sites)): 8}, 0)
    with pytest.raises(lc.SiteError, match="width 16 on this model and 8"):
        refine(tiny, [(wide, learned[0][1])], CONFIG)
    with pytest.raises(lc.TrainingError, match="at lower and lower rates"):
        refine(tiny, learned, lc.TrainConfig(steps=5, rate=1e9, holdout=0))
