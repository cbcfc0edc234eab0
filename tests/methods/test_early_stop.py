from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.diagnostics.health import check_health
from lineas_core.methods.variants.early_stop import Stopped, train_until, warm_start
from lineas_core.numerics.transport import delta
from tests.helpers.models import random_map

CONFIG = lc.TrainConfig(steps=60, rate=0.3, batch_size=8, holdout=0.25)


def same(a: lc.SteeringMap, b: lc.SteeringMap) -> bool:
    return all(
        torch.equal(x, y) for s in a.sites for x, y in zip(a.sites[s], b.sites[s], strict=True)
    )


def left(
    model: lc.LanguageModel, smap: lc.SteeringMap, prompts: lc.PromptSet, side: int = 1
) -> float:
    """Share of Delta left on training (0) or held-out (1) prompts, computed independently."""
    sides, sites = prompts.split(CONFIG.holdout, CONFIG.seed)[side], list(smap.sites)
    aim = pooled_activations(model, model.prepare(sides.target), sites)

    def distance(strength: float) -> float:
        with lc.steer(model, [(smap, strength)]):
            z = pooled_activations(model, model.prepare(sides.source), sites)
        return sum(float(delta(z[s], aim[s]).mean()) for s in sites)

    return distance(1.0) / distance(0.0)


@pytest.fixture(scope="module")
def prompts() -> lc.PromptSet:
    return lc.PromptSet(
        name="letters",
        source=["abc abc", "aab", "a cab", "bac abba", "cc ab", "ab", "bb aa cc", "caba"],
        target=["xyz xyz", "xxy", "x zyx", "yzx xyyx", "zz xy", "xy", "yy xx zz", "zyxy"],
    )


@pytest.fixture(scope="module")
def stopped(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> Stopped:
    return train_until(tiny, prompts, CONFIG, every=2, patience=8, least=0.02)


def test_a_run_ends_when_held_out_prompts_come_no_closer(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, stopped: Stopped
) -> None:
    assert stopped.steps < CONFIG.steps
    assert [step for step, _ in stopped.curve] == list(range(0, stopped.steps + 1, 2))
    # No check in the last eight steps improved on all earlier ones by 0.02; before that, every
    # check came at most eight steps after one that did.
    early = [value for step, value in stopped.curve if step <= stopped.steps - 8]
    late = [value for step, value in stopped.curve if step > stopped.steps - 8]
    assert min(late) >= 0.98 * min(early)
    assert min(early) < 0.98


def test_the_map_is_the_best_of_those_checked(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, stopped: Stopped
) -> None:
    assert dict(stopped.curve)[stopped.step] == min(value for _, value in stopped.curve)
    assert left(tiny, stopped.map, prompts) == pytest.approx(
        dict(stopped.curve)[stopped.step], rel=1e-4
    )
    trainer = lc.Trainer(tiny, prompts, CONFIG)
    while len(trainer.losses) < stopped.step:
        trainer.step()
    assert same(stopped.map, trainer.map)


def test_checks_change_nothing_and_the_limit_holds(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = replace(CONFIG, steps=7)
    events: list[lc.StepEvent] = []
    torch.manual_seed(1)
    first = train_until(tiny, prompts, config, every=3, on_event=events.append)
    torch.manual_seed(2)
    second = train_until(tiny, prompts, config, every=3)
    plain = lc.train(tiny, prompts, config)
    assert [event.loss for event in events] == plain.losses
    assert [step for step, _ in first.curve] == [0, 3, 6, 7]
    assert first.curve == second.curve
    assert same(first.map, second.map)
    health = check_health(tiny, plain.map, *prompts.split(0.25, 0), batch_size=8)
    assert health.held_out is not None
    assert first.curve[-1][1] == pytest.approx(health.held_out.ratio, rel=1e-4)


def test_a_run_that_only_gets_worse_gives_the_map_it_began_with(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, stopped: Stopped
) -> None:
    # A heavy penalty pulls a good map back to the identity.
    config = replace(CONFIG, gamma=0.3)
    found = train_until(tiny, prompts, config, every=1, patience=3, start=stopped.map)
    assert (found.step, found.steps) == (0, 3)
    assert left(tiny, found.map, prompts) == pytest.approx(dict(stopped.curve)[stopped.step])


def test_lineas_plus_ends_when_held_out_targets_become_no_likelier(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = replace(CONFIG, steps=80, rate=0.05, optimizer="adamw", distance=0.0)
    found = train_until(tiny, prompts, config, method="lineas+", every=2, patience=6)
    assert found.steps < config.steps
    _, held_out = prompts.split(config.holdout, config.seed)
    pairs = [(s, f" {t}") for s in held_out.source for t in held_out.target]

    def loss(strength: float) -> float:
        contexts, texts = zip(*pairs, strict=True)
        with lc.steer(tiny, [(found.map, strength)]):
            return float(torch.cat(tiny.token_losses(texts, contexts)).mean())

    losses = dict(found.curve)
    assert losses[found.step] == min(losses.values()) < losses[0]
    late = [value for step, value in found.curve if step > found.steps - 6]
    assert min(late) >= 0.99 * min(losses.values())
    # Over all pairs, of which the curve is measured on some.
    assert loss(1.0) < loss(0.0)


def test_it_stops_when_asked(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    done: list[lc.StepEvent] = []
    found = train_until(
        tiny, prompts, CONFIG, on_event=done.append, should_stop=lambda: len(done) == 4
    )
    assert (found.steps, found.curve) == (4, found.curve[:1])


def test_training_begins_at_the_map_it_is_given(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0, spread=0.2)
    trainer = lc.Trainer(tiny, prompts, CONFIG, start=smap)
    for site, affine in trainer.map.sites.items():
        torch.testing.assert_close(affine.scale, smap.sites[site].scale)
        assert torch.equal(affine.shift, smap.sites[site].shift)
    before = smap.sites[trainer.sites[0]].shift.clone()
    untouched = lc.Trainer(tiny, prompts, CONFIG).step().loss
    ratio = left(tiny, smap, prompts, side=0)
    assert trainer.step().loss == pytest.approx(ratio * untouched, rel=1e-4)
    assert torch.equal(smap.sites[trainer.sites[0]].shift, before)

    state = trainer.state
    resumed = lc.Trainer(tiny, prompts, CONFIG, state, start=smap)
    assert trainer.step().loss == resumed.step().loss
    with pytest.raises(lc.ConfigError, match="another start"):
        lc.Trainer(tiny, prompts, CONFIG, state, start=smap.at(0.5))


def test_maps_of_other_sites_are_no_start(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm")[:2], 16), 0)
    with pytest.raises(lc.ConfigError, match="start has other sites"):
        lc.Trainer(tiny, prompts, CONFIG, start=smap)


def test_a_warm_start_is_closer_on_its_own_prompts(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    smap = warm_start(tiny, prompts, CONFIG)
    whole = lc.fit("lin-act", tiny, prompts, replace(CONFIG, order="parallel"))
    reached = left(tiny, smap, prompts, side=0)
    for strength in (0.1, 0.4, 1.0):
        assert reached <= left(tiny, whole.at(strength), prompts, side=0) + 1e-6
    assert reached < 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "every 0"),
        ({"patience": 0}, "patience 0"),
        ({"least": 1.0}, "least 1"),
        ({"config": replace(CONFIG, holdout=0.0)}, "holdout is 0"),
    ],
)
def test_settings_out_of_range_are_named(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, changes: dict, message: str
) -> None:
    with pytest.raises(lc.ConfigError, match=message):
        train_until(tiny, prompts, **{"config": CONFIG, **changes})
