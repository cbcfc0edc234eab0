"""A measured rate serves every model, however large its activations are."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.training.units import largest_curvature, units_of
from lineas_core.training.update import UNIT_RATE
from tests.helpers.models import ARCHITECTURES, SIZES, save_checkpoint

CONFIG = lc.TrainConfig(steps=20, batch_size=8, holdout=0)
SHAPES = {
    **{name: ARCHITECTURES[name] for name in ("llama", "gpt2", "qwen2", "gemma2")},
    "gemma3": transformers.Gemma3TextConfig(**SIZES, sliding_window=8),
}


def test_the_largest_curvature_is_that_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q
    matrix = q @ torch.diag(torch.linspace(0.1, 1, 20).pow(3) * 7) @ q.T
    start = torch.randn(20, generator=generator)
    # Power iterations come from below.
    found = largest_curvature(lambda p: matrix @ p, start)
    assert 0.95 * 7 < found < 7.001


def test_a_neuron_that_never_varies_gets_finite_units() -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    x[:, 0], x[:, 3:] = 2.5, 0.0
    units = units_of(x, x.flip(0), [3, 3])
    assert all(bool(torch.isfinite(u).all() and (u > 0).all()) for u in units)
    torch.testing.assert_close(units.weights[1], x[:, 1].var().reciprocal())
    s, m = x[:, 1].std(), x[:, 1].square().mean().sqrt().maximum(x[:, 1].std())
    torch.testing.assert_close(units.steps[[1, 4]], torch.stack([s / m, s]))


@pytest.mark.parametrize("factor", [0.02, 50.0])
def test_the_map_does_not_depend_on_the_size_of_activations(
    small_models: dict[str, Path], prompts: lc.PromptSet, factor: float
) -> None:
    plain, other = (lc.load_model(str(small_models["llama"]), device="cpu") for _ in range(2))
    # The same function, with the activations of the sites at another size.
    with torch.no_grad():
        for layer in other.module.model.layers:
            layer.post_attention_layernorm.weight.mul_(factor)
            layer.mlp.gate_proj.weight.div_(factor)
            layer.mlp.up_proj.weight.div_(factor)
    results = [lc.train(model, prompts, CONFIG) for model in (plain, other)]
    assert results[0].losses == pytest.approx(results[1].losses, rel=1e-3)
    for a, b in zip(*(r.map.sites.values() for r in results), strict=True):
        torch.testing.assert_close(a.scale, b.scale, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(a.shift * factor, b.shift, rtol=2e-2, atol=1e-3 * factor)


def test_a_resumed_run_keeps_the_measured_rate(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, tmp_path: Path
) -> None:
    whole = lc.train(tiny, prompts, CONFIG)
    for stop_after in (0, 1, 7):
        trainer = lc.Trainer(tiny, prompts, CONFIG)
        for _ in range(stop_after):
            trainer.step()
        state = lc.TrainState.load(trainer.state.save(tmp_path / "state"))
        resumed = lc.train(tiny, prompts, CONFIG, state=state)
        assert resumed.losses == whole.losses
        for site, affine in whole.map.sites.items():
            assert all(map(torch.equal, affine, resumed.map.sites[site]))


def test_the_penalty_is_in_the_same_units(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    supports = [
        lc.train(tiny, prompts, replace(CONFIG, gamma=gamma)).map.support()
        for gamma in (0.0, 0.2, 100.0)
    ]
    assert supports[0] == 1
    assert 0 < supports[1] < 1
    assert supports[2] == 0


def test_the_first_step_of_adamw_without_a_rate_is_a_share_of_each_spread(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    config = lc.TrainConfig(steps=9, optimizer="adamw", holdout=0)
    trainer = lc.Trainer(tiny, prompts, config)
    trainer.step()
    for site, affine in trainer.map.sites.items():
        source, target = (
            pooled_activations(tiny, tiny.prepare(side), [site])[site]
            for side in (prompts.source, prompts.target)
        )
        # Adam's first step is the rate, whatever the gradient is.
        moved = torch.cat([affine.scale - 1, affine.shift]).abs()
        wanted = UNIT_RATE * units_of(source, target, [16]).steps
        torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-6)


def scaled(model: lc.LanguageModel, seed: int) -> None:
    """Give the norms weights as uneven as those of trained models."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if "norm" in name or ".ln_" in name:
                wide: Tensor = torch.randn(weight.shape, generator=generator)
                weight.mul_((1.2 * wide).exp() * 3)


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(10), marks=pytest.mark.thorough),
        pytest.param(range(10, 50), marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_seed_goes_off(tmp_path: Path, prompts: lc.PromptSet, shape: str, seeds: range) -> None:
    model = lc.load_model(str(save_checkpoint(SHAPES[shape], tmp_path)), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    weights = copy.deepcopy(model.module.state_dict())
    worse = []
    for seed in seeds:
        model.module.load_state_dict(weights)
        scaled(model, seed)
        for size in (8, 6):
            trainer = lc.Trainer(model, prompts, replace(CONFIG, seed=seed, batch_size=size))
            events = list(trainer.run())
            assert not [event.note for event in events if event.note], (seed, size)
            # The losses of two different minibatches cannot be compared.
            if size == 8 and trainer.losses[-1] > trainer.losses[0]:
                worse.append(seed)
    assert len(worse) <= 1, worse
