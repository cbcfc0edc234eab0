from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.numerics.transport import delta

CONFIG = lc.TrainConfig(steps=12, rate=0.05, batch_size=4, holdout=0.25)


def same(a: lc.SteeringMap, b: lc.SteeringMap) -> bool:
    return list(a.sites) == list(b.sites) and all(
        torch.equal(x, y) for s in a.sites for x, y in zip(a.sites[s], b.sites[s], strict=True)
    )


def test_training_brings_the_steered_source_to_the_target(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = lc.TrainConfig(steps=150, rate=0.3, batch_size=8, holdout=0)
    result = lc.train(tiny, prompts, config)
    sites = tiny.sites("post_layernorm")
    target = pooled_activations(tiny, tiny.prepare(prompts.target), sites)
    source = tiny.prepare(prompts.source)

    def distance(maps: list) -> float:
        with lc.steer(tiny, maps):
            found = pooled_activations(tiny, source, sites)
        return sum(float(delta(found[s], target[s]).mean()) for s in sites)

    assert result.losses[0] == pytest.approx(distance([]), rel=1e-4)
    assert distance([(result.map, 1.0)]) < 0.2 * distance([])
    assert distance([(result.map, 1.0)]) < distance([(result.map, 0.5)]) < distance([])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_the_neurons_of_the_support_are_trained(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, optimizer: str
) -> None:
    config = replace(CONFIG, optimizer=optimizer)
    sites = tiny.sites("post_layernorm")
    scale, shift = torch.ones(16), torch.zeros(16)
    scale[3], shift[5] = 2.0, 1.0
    support = lc.SteeringMap.identity(dict.fromkeys(sites, 16))
    support = lc.SteeringMap({**support.sites, sites[1]: lc.Affine(scale, shift)})
    whole, part = (
        lc.Trainer(tiny, prompts, config),
        lc.Trainer(tiny, prompts, config, support=support),
    )
    whole.step()
    part.step()
    chosen = torch.tensor([index in (3, 5) for index in range(16)])
    for site in sites:
        inside = chosen if site == sites[1] else torch.zeros(16, dtype=torch.bool)
        for one, other, still in zip(
            part.map.sites[site], whole.map.sites[site], (1.0, 0.0), strict=True
        ):
            assert torch.equal(one[inside], other[inside])
            assert bool((one[~inside] == still).all())
    with pytest.raises(lc.ConfigError, match="support has other sites"):
        lc.Trainer(tiny, prompts, config, support=lc.SteeringMap.identity({sites[0]: 16}))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_first_step_is_that_of_finite_differences(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, optimizer: str
) -> None:
    config = replace(CONFIG, optimizer=optimizer, batch_size=8, holdout=0, rate=0.01)
    trainer = lc.Trainer(tiny, prompts, config)
    trainer.step()
    site = tiny.sites("post_layernorm")[1]
    moved = trainer.map.sites[site].shift

    def loss(shift: float) -> float:
        bump = torch.zeros(16)
        bump[5] = shift
        smap = lc.SteeringMap({site: lc.Affine(torch.ones(16), bump)})
        sites = tiny.sites("post_layernorm")
        target = pooled_activations(tiny, tiny.prepare(prompts.target), sites)
        with lc.steer(tiny, [(smap, 1.0)]):
            found = pooled_activations(tiny, tiny.prepare(prompts.source), sites)
        return sum(float(delta(found[s].double(), target[s].double()).mean()) for s in sites)

    slope = (loss(1e-2) - loss(-1e-2)) / 2e-2
    if optimizer == "sgd":
        assert float(moved[5]) == pytest.approx(-0.01 * slope, rel=0.05)
    else:
        assert float(moved[5]) == pytest.approx(-0.01 * math.copysign(1, slope), rel=1e-3)


def test_events_say_where_training_is(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    events: list[lc.StepEvent] = []
    result = lc.train(tiny, prompts, CONFIG, on_event=events.append)
    assert [e.step for e in events] == list(range(1, 13))
    assert [e.steps_left for e in events] == list(range(11, -1, -1))
    assert [e.loss for e in events] == result.losses
    assert all(sum(e.loss_by_site.values()) == pytest.approx(e.loss) for e in events)
    assert list(events[0].loss_by_site) == tiny.sites("post_layernorm")
    assert events[-1].seconds_left == 0
    assert [e.seconds for e in events] == sorted(e.seconds for e in events)
    assert result.map.info.prompt_hash == prompts.hash()
    assert result.map.info.config["steps"] == 12


def test_the_same_seed_gives_the_same_map(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    torch.manual_seed(1)
    first = lc.train(tiny, prompts, CONFIG).map
    torch.manual_seed(2)
    assert same(first, lc.train(tiny, prompts, CONFIG).map)
    assert not same(first, lc.train(tiny, prompts, replace(CONFIG, seed=1)).map)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop_after", [0, 1, 7])
def test_a_resumed_run_equals_an_undisturbed_one(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, tmp_path: Path, optimizer: str, stop_after: int
) -> None:
    config = replace(CONFIG, optimizer=optimizer, gamma=1e-3)
    whole = lc.train(tiny, prompts, config)
    trainer = lc.Trainer(tiny, prompts, config)
    for _ in range(stop_after):
        trainer.step()
    path = trainer.state.save(tmp_path / "state")
    resumed = lc.train(tiny, prompts, config, state=lc.TrainState.load(path))
    assert same(whole.map, resumed.map)
    assert whole.losses == resumed.losses


def test_a_state_of_another_run_is_refused(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, tmp_path: Path
) -> None:
    state = lc.Trainer(tiny, prompts, CONFIG).state
    with pytest.raises(lc.ConfigError, match="another config"):
        lc.Trainer(tiny, prompts, replace(CONFIG, rate=0.01), state)
    with pytest.raises(lc.ConfigError, match="another prompts"):
        lc.Trainer(tiny, replace(prompts, source=prompts.source[::-1]), CONFIG, state)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(lc.TrainingError, match="not a readable training state"):
        lc.TrainState.load(tmp_path / "junk")


def test_cancelling_takes_effect_within_one_step_and_keeps_the_map(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    events: list[lc.StepEvent] = []
    result = lc.train(
        tiny, prompts, CONFIG, on_event=events.append, should_stop=lambda: len(events) == 3
    )
    assert result.cancelled
    assert len(result.losses) == 3
    assert result.map.support() > 0


def test_a_loss_that_goes_off_again_and_again_stops_at_the_last_good_state(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = replace(CONFIG, rate=1e7)
    # After five restarts, each at a fifth of the rate before.
    with pytest.raises(lc.DivergedError, match=r"it is 3.2e\+03; try 640\).*kept") as caught:
        lc.train(tiny, prompts, config)
    kept = caught.value.result
    assert kept.losses == [] or max(kept.losses) <= kept.losses[0]
    assert all(torch.isfinite(v).all() for affine in kept.map.sites.values() for v in affine)


@pytest.mark.parametrize("stop_after", [None, 0, 4])
def test_a_loss_that_goes_off_goes_on_at_a_lower_rate_and_says_so(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, tmp_path: Path, stop_after: int | None
) -> None:
    config = replace(CONFIG, rate=100.0, batch_size=8, holdout=0)
    trainer = lc.Trainer(tiny, prompts, config)
    if stop_after is not None:
        for _ in range(stop_after):
            trainer.step()
        state = lc.TrainState.load(trainer.state.save(tmp_path / "state"))
        trainer = lc.Trainer(tiny, prompts, config, state)
    events = list(trainer.run())
    assert [e.step for e in events][-1] == config.steps
    assert len(trainer.losses) == config.steps
    notes = [e.note for e in events if e.note]
    assert stop_after or "the rate is 20 now, not 100" in notes[0]
    # With the rate that it came to, nothing goes off.
    rate = float(trainer.state.tensors["rate"][0])
    plain = lc.Trainer(tiny, prompts, replace(config, rate=rate))
    assert not any(e.note for e in plain.run())
    assert trainer.losses[0] == plain.losses[0]


def test_a_model_that_is_not_finite_is_named(
    small_models: dict[str, Path], prompts: lc.PromptSet
) -> None:
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    for parameter in model.module.parameters():
        parameter.fill_(math.nan)
    with pytest.raises(lc.TrainingError, match=r"untouched model is nan.*dtype='float32'"):
        lc.train(model, prompts, CONFIG)


def test_the_penalty_makes_maps_sparse_and_a_large_one_leaves_nothing(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = lc.TrainConfig(steps=40, rate=0.3, batch_size=8, holdout=0)
    supports = [
        lc.train(tiny, prompts, replace(config, gamma=gamma)).map.support()
        for gamma in (0.0, 0.05, 10.0)
    ]
    assert supports[0] == 1
    assert 0 < supports[1] < 1
    assert supports[2] == 0
    paper = lc.train(tiny, prompts, replace(config, gamma=0.05, prox_step="paper")).map.support()
    assert paper < supports[1]


def test_the_loss_is_computed_in_float32_on_a_half_precision_model(
    small_models: dict, prompts: lc.PromptSet
) -> None:
    model = lc.load_model(str(small_models["llama"]), device="cpu", dtype="bfloat16")
    trainer = lc.Trainer(model, prompts, CONFIG)
    trainer.step()
    state = trainer.state
    assert all(v.dtype == torch.float32 for k, v in state.tensors.items() if k != "generator")
    assert trainer.map.support() > 0.9


def test_unequal_numbers_of_prompts_train(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    uneven = replace(prompts, target=prompts.target[:5])
    result = lc.train(tiny, uneven, replace(CONFIG, holdout=0, batch_size=8))
    assert result.losses[-1] < result.losses[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("rate", 0.0), ("rate", math.nan), ("optimizer", "lbfgs"), ("batch_size", 1),
        ("gamma", -1.0), ("l1", -1.0), ("group", math.inf), ("prox_step", "x"), ("holdout", 0.6),
        ("pooling", "median"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    # Wrong types too must be caught by the class itself, not by the tests' type checker.
    config = lc.TrainConfig()
    object.__setattr__(config, field, value)
    with pytest.raises(lc.ConfigError, match=f"{field} is {value!r}"):
        config.__post_init__()


def test_settings_of_a_model_come_from_the_catalogue(tiny: lc.LanguageModel) -> None:
    assert lc.TrainConfig.for_model(tiny) == lc.TrainConfig()
    assert lc.TrainConfig.for_model(tiny, steps=3).steps == 3
    with pytest.raises(lc.ConfigError, match="no setting 'stepz'"):
        lc.TrainConfig.for_model(tiny, stepz=3)
