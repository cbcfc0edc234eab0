from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import lineas_core as lc
from lineas_core.activations import pooled_forward
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.recompute import layers_of
from lineas_core.training.memory import BUDGET, Fit, bytes_kept, find_fit
from tests.helpers.models import ARCHITECTURES, save_checkpoint

TEXTS = ["a cab", "b", "a much longer sentence here", "xyz xyz", "one more"]


def maps_of(sites: list[str]) -> dict[str, BatchAffine]:
    generator = torch.Generator().manual_seed(0)

    def small() -> Tensor:
        return (0.1 * torch.randn(16, generator=generator)).requires_grad_()

    return {site: BatchAffine(small(), small()) for site in sites}


def gradients(tiny: lc.LanguageModel, **settings: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    sites = tiny.sites("layernorm")
    maps = maps_of(sites)
    found = pooled_forward(tiny, tiny.prepare(TEXTS), sites, maps=maps, **settings)
    flat = [part for affine in maps.values() for part in affine]
    loss = torch.stack([z.sort(dim=0).values.square().mean() for z in found.values()]).sum()
    return list(torch.autograd.grad(loss, flat)), found


@pytest.mark.parametrize(
    "settings", [{"rows_at_once": 1}, {"rows_at_once": 4}, {"layers": ["model.layers.0"]}], ids=str
)
def test_parts_give_the_gradients_of_the_whole(
    tiny: lc.LanguageModel, settings: dict[str, Any]
) -> None:
    whole, activations = gradients(tiny)
    parts, others = gradients(tiny, **settings)
    torch.testing.assert_close(others, activations, rtol=1e-5, atol=1e-6)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_is_kept_is_what_the_profiler_sees_stay(tiny: lc.LanguageModel) -> None:
    sites, inputs = tiny.sites("layernorm"), tiny.prepare(TEXTS)
    maps = maps_of(sites)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = pooled_forward(tiny, inputs, sites, maps=maps)
    stayed = sum(event.self_cpu_memory_usage for event in seen.key_averages())
    kept = bytes_kept(tiny, inputs, sites, maps)
    assert len(found) == len(sites)
    assert kept == pytest.approx(stayed, rel=0.1)


class Canary(torch.autograd.Function):
    """The identity, with an object that lives as long as the graph does."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, held: object) -> Tensor:
        ctx.held = held
        ctx.save_for_backward(z)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient, None


class Held:
    """What can be referred to weakly."""


def test_measuring_leaves_no_graph_behind(tiny: lc.LanguageModel) -> None:
    sites, inputs, held = tiny.sites("layernorm"), tiny.prepare(TEXTS), Held()
    gone = weakref.ref(held)
    handle = tiny.module.model.layers[1].mlp.register_forward_hook(
        lambda module, given, z, held=held: Canary.apply(z, held)
    )
    bytes_kept(tiny, inputs, sites, maps_of(sites))
    handle.remove()
    del handle, held
    gc.collect()
    assert gone() is None


@pytest.fixture
def deep(tmp_path: Path) -> lc.LanguageModel:
    """A model of so many layers that their inputs are little beside all that they keep."""
    config = copy.deepcopy(ARCHITECTURES["llama"])
    config.num_hidden_layers = 8
    save_checkpoint(config, tmp_path)
    model = lc.load_model(str(tmp_path), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    return model


def test_layers_that_are_recomputed_keep_their_inputs(deep: lc.LanguageModel) -> None:
    sites, inputs = deep.sites("layernorm"), deep.prepare(TEXTS)
    layers = layers_of(deep.module, sites)
    assert layers == [f"model.layers.{i}" for i in range(7)]
    maps = maps_of(sites)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = pooled_forward(deep, inputs, sites, maps=maps, layers=layers)
    stayed = sum(event.self_cpu_memory_usage for event in seen.key_averages())
    kept = bytes_kept(deep, inputs, sites, maps, layers=layers)
    assert len(found) == len(sites)
    assert kept == pytest.approx(stayed, rel=0.2)
    assert kept < 0.4 * bytes_kept(deep, inputs, sites, maps)


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["model.layers.0.input_layernorm", "model.layers.7.mlp"], range(7)),
        (["model.layers.7.mlp", "model.norm"], range(8)),
        (["model.layers.0", "model.layers.1.mlp"], []),
        (["model.norm"], []),
    ],
)
def test_which_layers_can_be_recomputed(
    deep: lc.LanguageModel, names: list[str], layers: Sequence[int]
) -> None:
    assert layers_of(deep.module, names) == [f"model.layers.{i}" for i in layers]


def test_a_step_is_made_to_fit(deep: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sites, inputs = deep.sites("layernorm"), deep.prepare(TEXTS)
    maps, layers = maps_of(sites), layers_of(deep.module, sites)
    one = bytes_kept(deep, deep.prepare(TEXTS[2:3]), sites, maps)
    held = bytes_kept(deep, deep.prepare(TEXTS[2:3]), sites, maps, layers=layers)
    layered = 4 * (held + 2 * one / len(layers))
    for budget, fit in (
        (4 * one, Fit()),
        (4 * one - 1, Fit(layers=layers)),
        (layered, Fit(layers=layers)),
        (layered - 1, Fit(rows=int(layered // one))),
        (0, Fit(rows=1)),
    ):
        free = budget / BUDGET
        monkeypatch.setattr(
            "lineas_core.training.memory.free_bytes", lambda device, free=free: free
        )
        assert find_fit(deep, inputs, sites, maps, batch_size=4) == fit


@pytest.mark.parametrize("fit", [Fit(rows=1), Fit(layers=["model.layers.0"])], ids=str)
def test_training_in_parts_gives_the_map_of_the_whole(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch, fit: Fit
) -> None:
    prompts = lc.PromptSet.load("football")
    config = lc.TrainConfig(steps=3, rate=0.05, holdout=0.0, batch_size=6)
    whole = lc.train(tiny, prompts, config).map
    monkeypatch.setattr("lineas_core.training.trainer.find_fit", lambda *_, **__: fit)
    parts = lc.train(tiny, prompts, config).map
    for site, affine in whole.sites.items():
        torch.testing.assert_close(parts.sites[site], affine, rtol=1e-4, atol=1e-6)
