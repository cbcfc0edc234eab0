from __future__ import annotations

import numpy as np
import pytest
import torch

import lineas_core as lc
from lineas_core.diagnostics.interference import effects
from lineas_core.models.image.model import DiffusionModel
from tests.helpers.models import random_map
from tests.helpers.pipelines import small_sd

TEXTS = ["a cab", "b", "a much longer sentence", "xyz xyz"]


def shares(*arguments: object, **options: object) -> list[float | None]:
    return [effect.share for effect in effects(*arguments, **options)]


def at_one_site(model: lc.LanguageModel, scale: list[float], shift: list[float]) -> lc.SteeringMap:
    """A map at the last site, where the joint effect of maps is known in closed form."""
    site = model.sites("post_layernorm")[-1]
    repeat = 16 // len(scale)
    return lc.SteeringMap(
        {site: lc.Affine(torch.tensor(scale * repeat), torch.tensor(shift * repeat))}
    )


def test_a_map_alone_keeps_all_of_its_effect(tiny: lc.LanguageModel) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    assert shares(tiny, TEXTS, [(smap, 0.7)]) == [1.0]


def test_shifts_of_other_neurons_leave_each_other_alone(tiny: lc.LanguageModel) -> None:
    even = at_one_site(tiny, [1.0, 1.0], [2.0, 0.0])
    odd = at_one_site(tiny, [1.0, 1.0], [0.0, -3.0])
    assert shares(tiny, TEXTS, [(even, 1.0), (odd, 0.5)]) == pytest.approx([1, 1], abs=1e-5)


def test_shifts_of_the_same_neurons_add_up(tiny: lc.LanguageModel) -> None:
    push = at_one_site(tiny, [1.0], [2.0])
    back = at_one_site(tiny, [1.0], [-1.0])
    # Together they shift by 2 s + (-1) t: the shares are this over 2 s, and this over -t.
    assert shares(tiny, TEXTS, [(push, 1.0), (back, 0.5)]) == pytest.approx(
        [1.5 / 2, 1.5 / -0.5], rel=1e-4
    )
    assert shares(tiny, TEXTS, [(push, 1.0), (push, 1.0)]) == pytest.approx([2, 2], rel=1e-4)


def mean_over_tokens(
    model: lc.LanguageModel, site: str, maps: list[tuple[lc.SteeringMap, float]]
) -> np.ndarray:
    """The output of a site, recorded by a hook of the test, one text at a time."""
    seen: list[np.ndarray] = []
    with torch.no_grad(), lc.steer(model, maps):
        handle = model.module.get_submodule(site).register_forward_hook(
            lambda module, given, out: seen.append(out[0].mean(dim=0).double().numpy())
        )
        for text in TEXTS:
            model.module(model.prepare([text]).ids)
        handle.remove()
    return np.stack(seen)


def test_a_later_scale_takes_an_earlier_shift_along(tiny: lc.LanguageModel) -> None:
    push, half = at_one_site(tiny, [1.0], [4.0]), at_one_site(tiny, [0.5], [0.0])
    z = mean_over_tokens(tiny, next(iter(push.sites)), [])
    change = (z + 4) / 2 - z
    wanted = [(change * 4).sum() / (16 * z.size), -(change * z / 2).sum() / (z**2 / 4).sum()]
    assert shares(tiny, TEXTS, [(push, 1.0), (half, 1.0)]) == pytest.approx(wanted, rel=1e-3)


def test_every_site_counts_alike_however_wide(tiny: lc.LanguageModel) -> None:
    widths = {"model.layers.2.mlp.up_proj": 24, "model.layers.2.mlp.down_proj": 16}
    push, other = random_map(widths, 1), random_map(widths, 2)
    along = size = 0.0
    for site, width in widths.items():
        plain, alone, both = (
            mean_over_tokens(tiny, site, maps)
            for maps in ([], [(push, 0.5)], [(push, 0.5), (other, 1.0)])
        )
        along += ((both - plain) * (alone - plain)).sum() / width
        size += np.square(alone - plain).sum() / width
    found = shares(tiny, TEXTS, [(push, 0.5), (other, 1.0)])
    assert found[0] == pytest.approx(along / size, rel=1e-4)


def test_a_map_that_changes_nothing_has_no_share(tiny: lc.LanguageModel) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    none = lc.SteeringMap.identity(smap.widths)
    assert shares(tiny, TEXTS, [(smap, 0.0), (none, 1.0), (smap, 1.0)]) == [None, None, 1.0]


def test_maps_at_other_sites_in_any_order(tiny: lc.LanguageModel) -> None:
    first, second, third = tiny.sites("post_layernorm")
    late, early = random_map({third: 16, second: 16}, 1), random_map({first: 16}, 2)
    found = shares(tiny, TEXTS, [(late, 1.0), (early, 1.0)])
    # Later sites cannot affect earlier ones.
    assert found[1] == pytest.approx(1, abs=1e-5)
    assert found[0] is not None
    assert abs(found[0] - 1) > 1e-3


def test_batches_give_the_same_as_one(tiny: lc.LanguageModel) -> None:
    sites = dict.fromkeys(tiny.sites("post_layernorm"), 16)
    maps = [(random_map(sites, 1), 0.5), (random_map(sites, 2), 1.0)]
    whole, parts = shares(tiny, TEXTS, maps), shares(tiny, TEXTS, maps, batch_size=3)
    assert whole == pytest.approx(parts, rel=1e-4)
    assert shares(tiny, TEXTS, maps, pooling="last") != pytest.approx(whole, rel=1e-2)


def test_images_are_measured_alike() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionModel("small", small_sd())
    site = "unet.conv_norm_out"
    one = torch.ones(8)
    push = lc.SteeringMap({site: lc.Affine(one, 2 * one)})
    back = lc.SteeringMap({site: lc.Affine(one, -one)})
    assert shares(model, ["ab", "cd"], [(push, 1.0), (back, 1.0)]) == pytest.approx(
        [0.5, -1.0], rel=1e-4
    )


def test_no_maps_and_no_prompts(tiny: lc.LanguageModel) -> None:
    assert effects(tiny, TEXTS, []) == []
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    with pytest.raises(lc.PromptError, match="prompts is empty"):
        effects(tiny, [], [(smap, 1.0)])
