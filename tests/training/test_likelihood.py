"""LinEAS+: the likelihood term against transformers' own loss, and the runs it is part of."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import lineas_core as lc
from lineas_core.maps.steering_map import BatchAffine, SteeringMap
from lineas_core.methods.lineas_plus import TRAINER
from lineas_core.training.contexts import CONTEXTS, in_context
from lineas_core.training.likelihood import continuation_losses
from lineas_core.training.memory import Fit
from tests.helpers.models import random_map
from tests.helpers.pipelines import small_sd

CONFIG = lc.TrainConfig(
    steps=8, rate=0.01, optimizer="adamw", batch_size=4, holdout=0.25, likelihood=2.0, distance=1.0
)
CONTEXT = ["a cab", "b", "abba abba", "caba"]
TEXT = ["xyz xyz", "zyx", "x zyx yzx", "xy"]


def values_of(smap: lc.SteeringMap) -> Tensor:
    return torch.cat([torch.cat([*affine]) for affine in smap.sites.values()])


def losses_by_hand(
    model: lc.LanguageModel, maps: dict[str, tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[int]]:
    """Summed losses of TEXT by transformers' own `labels`, with the maps put on by torch's hooks.

    The checkpoint is loaded again, without anything of ours in it, and runs row by row.
    """
    plain = transformers.AutoModelForCausalLM.from_pretrained(model.id).requires_grad_(False)
    parts = dict(plain.named_modules())

    def moved(scale: Tensor, shift: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda module, given, z: scale * z + shift

    for name, affine in maps.items():
        parts[name].register_forward_hook(moved(*affine))
    found, counts = [], []
    for context, text in zip(CONTEXT, TEXT, strict=True):
        before = model.tokenizer(context)["input_ids"]
        row = model.tokenizer(f"{context} {text}")["input_ids"]
        labels = [-100] * len(before) + row[len(before) :]
        loss = plain(input_ids=torch.tensor([row]), labels=torch.tensor([labels])).loss
        counts.append(len(row) - len(before))
        found.append(loss * counts[-1])
    return torch.stack(found), counts


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("packs", [True, False])
def test_losses_and_gradients_are_those_of_transformers(
    small_models: dict[str, Path], architecture: str, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs:
        monkeypatch.setattr("lineas_core.models.language.model.enable", lambda module: False)
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    sites = model.sites("post_layernorm")
    smap = random_map(dict.fromkeys(sites, 16), 0, spread=0.2)
    live = {s: BatchAffine(a.scale - 1, a.shift) for s, a in smap.sites.items()}
    flat = [part.requires_grad_() for affine in live.values() for part in affine]
    texts = model.continuations(CONTEXT, TEXT)
    losses = continuation_losses(model, texts, sites, maps=live)
    gradients = torch.autograd.grad(losses.sum(), flat)

    others = {s: (1 + a.gain, a.shift) for s, a in live.items()}
    wanted, counts = losses_by_hand(model, others)
    torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-4)
    assert texts.counts.flatten().tolist() == counts
    for one, other in zip(gradients, torch.autograd.grad(wanted.sum(), flat), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for rows in ([2, 0], torch.tensor([2, 0])):
        part = continuation_losses(model, texts.rows(rows), sites, maps=live)
        torch.testing.assert_close(part, wanted[[2, 0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fit", [Fit(rows=1), Fit(layers=["model.layers.0"])], ids=str)
def test_parts_give_the_gradients_of_the_whole(tiny: lc.LanguageModel, fit: Fit) -> None:
    sites = tiny.sites("post_layernorm")
    live = {s: BatchAffine(torch.zeros(16).requires_grad_(), torch.zeros(16)) for s in sites}
    flat, texts = [a.gain for a in live.values()], tiny.continuations(CONTEXT, TEXT)

    def gradients(fit: Fit) -> list[Tensor]:
        losses = continuation_losses(
            tiny, texts, sites, maps=live, rows_at_once=fit.rows, layers=fit.layers
        )
        return list(torch.autograd.grad(losses.sum(), flat))

    for one, other in zip(gradients(fit), gradients(Fit()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_each_target_follows_source_sentences(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    training, _ = prompts.split(0.25, 0)
    texts = in_context(tiny, training, seed=0)
    assert len(texts) == CONTEXTS * len(training.target)
    ids = [row[real].tolist() for row, real in zip(texts.inputs.ids, texts.mask, strict=True)]
    rows = [tiny.text_of(each) for each in ids]
    pairs = {(s, t) for s in training.source for t in training.target if f"{s} {t}" in rows}
    assert len(pairs) > 2 * len(training.target)
    assert {t for _, t in pairs} == set(training.target)
    held = set(prompts.source + prompts.target) - set(training.source + training.target)
    assert not any(row.startswith(f"{line} ") for line in held for row in rows)


def test_the_loss_is_the_weighted_sum(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    config = replace(CONFIG, batch_size=32, distance=0.5)
    event = TRAINER(tiny, prompts, config).step()
    training, _ = prompts.split(config.holdout, config.seed)
    texts = in_context(tiny, training, config.seed)
    with torch.no_grad():
        mean = float(texts.losses().sum() / texts.counts.sum())
    distance = lc.Trainer(tiny, prompts, config).step().loss
    assert event.likelihood == pytest.approx(2 * mean, rel=1e-5)
    assert sum(event.loss_by_site.values()) == pytest.approx(0.5 * distance, rel=1e-5)
    assert event.loss == pytest.approx(2 * mean + 0.5 * distance, rel=1e-5)
    alone = TRAINER(tiny, prompts, replace(config, distance=0.0)).step()
    assert alone.loss == alone.likelihood == pytest.approx(2 * mean, rel=1e-5)
    assert alone.loss_by_site == {}


def test_the_likelihood_is_that_at_more_than_the_strength_of_the_map(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = replace(CONFIG, batch_size=32, distance=0.0, likelihood=1.0, rate=None)
    trainer = TRAINER(tiny, prompts, config)
    trainer.step()
    moved = values_of(trainer.map).clone()
    texts = in_context(tiny, prompts.split(config.holdout, config.seed)[0], config.seed)
    with torch.no_grad(), lc.steer(tiny, [(trainer.map, 5 / 3)]):
        mean = float(texts.losses().sum() / texts.counts.sum())
    assert trainer.step().likelihood == pytest.approx(mean, rel=1e-5)
    # AdamW's first step is the rate, whatever the gradient: at 5/3, that of a map trained at 1.
    plain = lc.Trainer(tiny, prompts, replace(config, likelihood=0.0, distance=1.0))
    plain.step()
    at_start = values_of(SteeringMap.identity(dict.fromkeys(plain.map.sites, 16)))
    ratio = (moved - at_start).abs() / (values_of(plain.map) - at_start).abs()
    assert ratio.median() == pytest.approx(3 / 5, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [{}, {"rate": None}, {"rate": None, "optimizer": "sgd"}, {"optimizer": "sgd", "gamma": 1e-3}],
    ids=str,
)
def test_without_likelihood_the_map_is_that_of_lineas_bit_for_bit(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, changes: dict[str, Any]
) -> None:
    config = replace(CONFIG, likelihood=0.0, **changes)
    plain = lc.train(tiny, prompts, config)
    plus = lc.train(tiny, prompts, config, method="lineas+")
    assert plus.losses == plain.losses
    assert torch.equal(values_of(plus.map), values_of(plain.map))
    other = lc.train(tiny, prompts, replace(config, likelihood=1.0), method="lineas+")
    assert not torch.equal(values_of(other.map), values_of(plain.map))


@pytest.mark.parametrize("distance", [0.0, 1.0])
@pytest.mark.parametrize("stop_after", [0, 3])
def test_a_resumed_run_equals_an_undisturbed_one(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, tmp_path: Path, stop_after: int, distance: float
) -> None:
    config = replace(CONFIG, distance=distance)
    whole = lc.train(tiny, prompts, config, method="lineas+")
    trainer = TRAINER(tiny, prompts, config)
    for _ in range(stop_after):
        trainer.step()
    state = lc.TrainState.load(trainer.state.save(tmp_path / "state"))
    resumed = lc.train(tiny, prompts, config, method="lineas+", state=state)
    assert torch.equal(values_of(whole.map), values_of(resumed.map))
    assert whole.losses == resumed.losses
    assert whole.map.info.method == "lineas+"
    with pytest.raises(lc.ConfigError, match="another method"):
        lc.Trainer(tiny, prompts, config, state)


def test_training_makes_the_targets_likelier(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    config = lc.TrainConfig.for_model(tiny, "lineas+", holdout=0, distance=0.0)
    result = lc.train(tiny, prompts, config, method="lineas+")
    whole = [f" {text}" for text in prompts.target]

    def loss(strength: float) -> float:
        with lc.steer(tiny, [(result.map, strength)]):
            return float(torch.cat(tiny.token_losses(whole, prompts.source)).mean())

    assert loss(1.0) < loss(0.5) < loss(0.0)


def test_images_are_refused_by_name(tmp_path: Path, prompts: lc.PromptSet) -> None:
    small_sd().save_pretrained(tmp_path)
    model = lc.load_model(str(tmp_path), device="cpu")
    with pytest.raises(lc.ConfigError, match=f"{re.escape(model.id)} makes images"):
        lc.fit("lineas+", model, replace(prompts, modality="image"))


def test_texts_longer_than_the_model_reads_are_named(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    long = replace(prompts, target=["x" * 120, *prompts.target[1:]])
    with pytest.raises(lc.PromptError, match=r"Prompt 1 has 1\d\d tokens.*reads 128"):
        lc.train(tiny, long, replace(CONFIG, holdout=0), method="lineas+")


@pytest.mark.parametrize("changes", [{"likelihood": -1.0}, {"distance": -1.0},
                                     {"likelihood": 0.0, "distance": 0.0}])  # fmt: skip
def test_weights_out_of_range_are_named(changes: dict[str, float]) -> None:
    name, value = next(iter(changes.items()))
    with pytest.raises(lc.ConfigError, match=f"{name} is {value}"):
        lc.TrainConfig(**changes)


def test_methods_without_steps_are_no_trainers(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    with pytest.raises(lc.ConfigError, match=r"'mean-act', which has no steps.*lineas\+"):
        lc.train(tiny, prompts, method="mean-act")
