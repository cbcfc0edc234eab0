from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import lineas_core as lc
from lineas_core.activations import pooled_forward
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.training.memory import bytes_kept, rows_that_fit

TEXTS = ["a cab", "b", "a much longer sentence here", "xyz xyz", "one more"]


def maps_of(sites: list[str]) -> dict[str, BatchAffine]:
    generator = torch.Generator().manual_seed(0)

    def small() -> Tensor:
        return (0.1 * torch.randn(16, generator=generator)).requires_grad_()

    return {site: BatchAffine(small(), small()) for site in sites}


def gradients(tiny: lc.LanguageModel, rows_at_once: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    sites = tiny.sites("layernorm")
    maps = maps_of(sites)
    found = pooled_forward(tiny, tiny.prepare(TEXTS), sites, maps=maps, rows_at_once=rows_at_once)
    flat = [part for affine in maps.values() for part in affine]
    loss = torch.stack([z.sort(dim=0).values.square().mean() for z in found.values()]).sum()
    return list(torch.autograd.grad(loss, flat)), found


@pytest.mark.parametrize("rows_at_once", [1, 2, 4])
def test_parts_give_the_gradients_of_the_whole(tiny: lc.LanguageModel, rows_at_once: int) -> None:
    whole, activations = gradients(tiny, 0)
    parts, others = gradients(tiny, rows_at_once)
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


def test_prompts_are_cut_to_half_of_the_free_memory(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites, inputs = tiny.sites("layernorm"), tiny.prepare(TEXTS)
    maps = maps_of(sites)
    one = bytes_kept(tiny, tiny.prepare(TEXTS[2:3]), sites, maps)
    for free, fitting in ((100 * one, 0), (5 * one, 2), (0, 1)):
        monkeypatch.setattr(
            "lineas_core.training.memory.free_bytes", lambda device, free=free: free
        )
        assert rows_that_fit(tiny, inputs, sites, maps, batch_size=4) == fitting


def test_training_in_parts_gives_the_map_of_the_whole(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = lc.PromptSet.load("football")
    config = lc.TrainConfig(steps=3, rate=0.05, holdout=0.0, batch_size=6)
    whole = lc.train(tiny, prompts, config).map
    monkeypatch.setattr("lineas_core.training.memory.free_bytes", lambda device: 0)
    parts = lc.train(tiny, prompts, config).map
    for site, affine in whole.sites.items():
        torch.testing.assert_close(parts.sites[site], affine, rtol=1e-4, atol=1e-6)
