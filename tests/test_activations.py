from __future__ import annotations

import pytest
import torch
from torch import nn

import lineas_core as lc
from lineas_core.activations import execution_order, pool, pooled_activations, pooled_forward
from lineas_core.maps.steering_map import BatchAffine
from tests.helpers.models import ARCHITECTURES, random_map

TEXTS = ["a cab", "b", "a much longer sentence here", "xyz xyz"]


@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
def test_pooling_counts_real_tokens_only(pooling: str) -> None:
    z = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = pool(z, pooling, mask)
    for row, length in ((0, 2), (1, 4)):
        real = z[row, :length]
        wanted = {"mean": real.mean(0), "last": real[-1], "max": real.max(0).values}[pooling]
        torch.testing.assert_close(found[row], wanted)


def test_pooling_of_images_is_over_height_and_width() -> None:
    z = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(pool(z, "mean", None), z.flatten(2).mean(2))
    torch.testing.assert_close(pool(z, "max", None), z.flatten(2).amax(2))
    with pytest.raises(lc.ConfigError, match="needs tokens"):
        pool(z, "last", None)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_padding_changes_nothing(architecture: str, small_models: dict) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    sites = model.sites("post_layernorm")
    together = pooled_activations(model, model.prepare(TEXTS), sites)
    for row, text in enumerate(TEXTS):
        alone = pooled_activations(model, model.prepare([text]), sites)
        for site in sites:
            torch.testing.assert_close(together[site][row], alone[site][0], atol=1e-5, rtol=1e-4)


def test_pooled_activations_are_what_the_modules_put_out(tiny: lc.LanguageModel) -> None:
    sites = tiny.sites("layernorm")
    seen: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda m, a, out, name=name: seen.__setitem__(name, out))
        for name, module in tiny.module.named_modules()
        if name in sites
    ]
    with torch.no_grad():
        tiny.module(tiny.prepare(TEXTS[:1]).ids)
    for handle in handles:
        handle.remove()
    found = pooled_activations(tiny, tiny.prepare(TEXTS[:1]), sites)
    for site in sites:
        torch.testing.assert_close(found[site], seen[site].mean(1))


def test_the_forward_pass_ends_at_the_last_site(tiny: lc.LanguageModel) -> None:
    sites = [s for s in tiny.sites("post_layernorm") if ".2." not in s]
    before = [module.forward for module in tiny.module.modules()]
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda m, a, name=name: ran.append(name))
        for name, module in tiny.module.named_modules()
    ]
    pooled_forward(tiny, tiny.prepare(TEXTS), sites)
    for handle in handles:
        handle.remove()
    assert sites[-1] in ran
    assert not any(name.startswith(("model.layers.1.mlp", "model.layers.2")) for name in ran)
    assert "lm_head" not in ran
    assert [module.forward for module in tiny.module.modules()] == before


def test_maps_act_on_later_sites_and_carry_gradients(tiny: lc.LanguageModel) -> None:
    sites, inputs = tiny.sites("post_layernorm"), tiny.prepare(TEXTS)
    gain = torch.zeros(16, requires_grad=True)
    maps = {sites[0]: BatchAffine(gain, torch.zeros(16))}
    last = pooled_forward(tiny, inputs, sites, maps=maps)[sites[-1]].square().mean()
    last.backward()
    step = 1e-3 * torch.eye(16)[3]
    values = []
    for sign in (1, -1):
        moved = {sites[0]: BatchAffine(sign * step, torch.zeros(16))}
        values.append(pooled_activations(tiny, inputs, sites, maps=moved)[sites[-1]])
    difference = (values[0].square().mean() - values[1].square().mean()) / 2e-3
    assert gain.grad is not None
    torch.testing.assert_close(gain.grad[3], difference, rtol=2e-2, atol=1e-4)
    assert all(p.grad is None for p in tiny.module.parameters())


def test_batches_give_the_same_as_one(tiny: lc.LanguageModel) -> None:
    sites, inputs = tiny.sites("post_layernorm"), tiny.prepare(TEXTS)
    whole = pooled_activations(tiny, inputs, sites)
    parts = pooled_activations(tiny, inputs, sites, batch_size=3)
    for site in sites:
        torch.testing.assert_close(whole[site], parts[site])


def test_execution_order_is_that_of_the_model(tiny: lc.LanguageModel) -> None:
    sites = tiny.sites("layernorm")
    assert execution_order(tiny, tiny.prepare(["ab"]), sites[::-1]) == sites


def test_sites_that_do_not_run_once_are_named(tiny: lc.LanguageModel) -> None:
    inputs = tiny.prepare(["ab"])
    with pytest.raises(lc.SiteError, match="'lm_head' runs 0 times"):
        execution_order(tiny, inputs, ["lm_head"])
    with pytest.raises(lc.SiteError, match="'lm_head' was not reached"):
        pooled_forward(tiny, inputs, ["model.norm", "lm_head"][::-1])


def test_the_hooks_of_one_thread_see_nothing_of_another(tiny: lc.LanguageModel) -> None:
    import threading

    sites, inputs = tiny.sites("post_layernorm"), tiny.prepare(TEXTS)
    wanted = pooled_activations(tiny, inputs, sites)
    stop, failed = threading.Event(), []

    def generate() -> None:
        while not stop.is_set():
            if len(tiny.generate(["abc"], max_new_tokens=4)) != 1:
                failed.append(1)

    thread = threading.Thread(target=generate)
    thread.start()
    for _ in range(20):
        found = pooled_activations(tiny, inputs, sites)
        for site in sites:
            torch.testing.assert_close(found[site], wanted[site])
    stop.set()
    thread.join()
    assert not failed
    assert isinstance(tiny.module, nn.Module)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_prompt_of_a_batch_has_its_own_strength(
    architecture: str, small_models: dict
) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    sites = model.sites("post_layernorm")
    smap = random_map(dict.fromkeys(sites, 16), 0, spread=0.1)
    strengths = torch.tensor([0.0, 0.5, 1.0, 2.0])
    with lc.steer(model, [(smap, strengths)]):
        together = pooled_activations(model, model.prepare(TEXTS), sites)
    for row, text in enumerate(TEXTS):
        with lc.steer(model, [(smap, float(strengths[row]))]):
            alone = pooled_activations(model, model.prepare([text]), sites)
        for site in sites:
            torch.testing.assert_close(together[site][row], alone[site][0], atol=1e-5, rtol=1e-4)
    with (
        lc.steer(model, [(smap, strengths[:3])]),
        pytest.raises(lc.SiteError, match="sees a batch of 4, but 3 strengths"),
    ):
        pooled_activations(model, model.prepare(TEXTS), sites)
