"""Each rival at its authors' settings, against their formulas written anew from their code.

ml-act: `act/hooks/transport.py`, `act/hooks/aura_hook.py` and their configs; honest_llama:
`utils.py`, `get_interventions_dict`; CAA: `generate_vectors.py`; representation-engineering:
`repe/rep_readers.py`, `PCARepReader`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.methods.iti_c import ALPHAS
from lineas_core.steerable import Pooling

Array = NDArray[np.float64]
# What a method does to the activations z of a site, from the pooled source and target.
Move = Callable[[Array, Array, Array], Array]
CONFIG = lc.TrainConfig(holdout=0, batch_size=8)


def linear_ot(source: Array, target: Array, z: Array) -> Array:
    x, y = np.sort(source, axis=0), np.sort(target, axis=0)
    x_bar, y_bar = x - x.mean(0), y - y.mean(0)
    beta = (x_bar * y_bar).sum(0) / (x_bar**2).sum(0)
    alpha = y.mean(0) - beta * x.mean(0)
    inside = (source.min(0) < z) & (z < source.max(0))
    return np.where(inside, beta * z + alpha, z)


def gaussian_ot(source: Array, target: Array, z: Array) -> Array:
    std1, std2 = source.std(0, ddof=1), target.std(0, ddof=1)
    moved = std2 / std1 * (z - source.mean(0)) + target.mean(0)
    return np.where((std1 > 1e-4) & (std2 > 1e-4), moved, z)


def mean_ot(source: Array, target: Array, z: Array) -> Array:
    std1, std2 = source.std(0, ddof=1), target.std(0, ddof=1)
    moved = z - source.mean(0) + target.mean(0)
    return np.where((std1 > 1e-4) & (std2 > 1e-4), moved, z)


def aura(source: Array, target: Array, z: Array) -> Array:
    labels = [1] * len(source) + [0] * len(target)
    auroc = np.array([roc_auc_score(labels, c) for c in np.concatenate([source, target]).T])
    return z * np.where(auroc > 0.5, 1 - 2 * (auroc - 0.5), 1)


def iti(source: Array, target: Array, z: Array) -> Array:
    rows, labels = np.concatenate([source, target]), [0] * len(source) + [1] * len(target)
    direction = LogisticRegression(max_iter=1000).fit(rows, labels).coef_[0]
    direction = direction / np.linalg.norm(direction)
    return z + 15 * (rows @ direction).std() * direction


def caa(source: Array, target: Array, z: Array) -> Array:
    return z + (target - source).mean(0)


def actadd(source: Array, target: Array, z: Array) -> Array:
    return z + target[0] - source[0]


def repe(source: Array, target: Array, z: Array) -> Array:
    signs = np.where(np.arange(len(source)) % 2, -1, 1)[:, None]
    direction = PCA(n_components=1).fit(signs * (target - source)).components_[0]
    return z + (target.mean(0) - source.mean(0)) @ direction * direction


RIVALS: Mapping[str, tuple[Move, Pooling]] = {
    "lin-act": (linear_ot, "mean"),
    "gaussian-act": (gaussian_ot, "mean"),
    "mean-act": (mean_ot, "mean"),
    "aura": (aura, "max"),
    "iti-c": (iti, "mean"),
    "caa": (caa, "last"),
    "actadd": (actadd, "last"),
    "repe": (repe, "mean"),
}


def outputs(model: lc.LanguageModel, site: str, lines: list[str]) -> list[Array]:
    """What a site puts out for each line by itself, one row per token."""
    found: list[Array] = []
    handle = model.module.get_submodule(site).register_forward_hook(
        lambda *call: found.append(call[2][0].double().numpy())
    )
    with torch.no_grad():
        for line in lines:
            model.module(torch.tensor([model.encode(line)]))
    handle.remove()
    return found


def alone(smap: lc.SteeringMap, site: str) -> lc.SteeringMap:
    bounds = {site: smap.bounds[site]} if site in smap.bounds else {}
    return lc.SteeringMap({site: smap.sites[site]}, bounds=bounds)


def assert_close(found: Array, wanted: Array, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())


@pytest.mark.parametrize("method", RIVALS)
def test_a_rival_moves_equal_activations_as_its_authors_do(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, method: str
) -> None:
    move, pooling = RIVALS[method]
    smap = lc.fit(method, tiny, prompts, replace(CONFIG, order="parallel", alpha=15.0))
    source, target = (
        pooled_activations(tiny, tiny.prepare(side), list(smap.sites), pooling=pooling)
        for side in (prompts.source, prompts.target)
    )
    for site in smap.sites:
        z = np.concatenate(outputs(tiny, site, ["abcxyz cab", "b"]))
        wanted = move(source[site].double().numpy(), target[site].double().numpy(), z)
        with lc.steer(tiny, [(alone(smap, site), 1.0)]):
            assert_close(np.concatenate(outputs(tiny, site, ["abcxyz cab", "b"])), wanted)
        moved = (wanted != z).mean()
        assert 0.1 < moved < 0.9 if method == "lin-act" else moved > 0.1


@pytest.mark.parametrize("method", ["lin-act", "gaussian-act", "mean-act"])
def test_ml_acts_methods_send_both_sides_through_the_maps_before(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, method: str
) -> None:
    """Every setting at its default, on a model, with pooling and steering written anew too."""
    move, _ = RIVALS[method]
    smap = lc.fit(method, tiny, prompts, CONFIG)
    with ExitStack() as stack:
        for site in smap.sites:
            source, target = (
                np.stack([z.mean(0) for z in outputs(tiny, site, side)])
                for side in (prompts.source, prompts.target)
            )
            if method == "lin-act":
                assert_close(smap.bounds[site].lower.numpy(), source.min(0))
                assert_close(smap.bounds[site].upper.numpy(), source.max(0))

            def hook(*call: Tensor, source: Array = source, target: Array = target) -> Tensor:
                z = move(source, target, call[2].double().numpy())
                return torch.from_numpy(z).float()

            handle = tiny.module.get_submodule(site).register_forward_hook(hook)
            stack.callback(handle.remove)
        wanted = [outputs(tiny, site, ["abcxyz cab"])[0] for site in smap.sites]
    plain = [outputs(tiny, site, ["abcxyz cab"])[0] for site in smap.sites]
    with lc.steer(tiny, [(smap, 1.0)]):
        found = [outputs(tiny, site, ["abcxyz cab"])[0] for site in smap.sites]
    for mine, theirs, before in zip(found, wanted, plain, strict=True):
        assert_close(mine, theirs, 1e-4)
        assert not np.allclose(before, theirs, rtol=1e-2)


@pytest.mark.parametrize("bounds", ["authors", "range", "none"])
def test_the_settings_say_where_ml_acts_maps_act(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, bounds: str
) -> None:
    within = {
        method: bool(lc.fit(method, tiny, prompts, replace(CONFIG, bounds=bounds)).bounds)
        for method in ("lin-act", "mean-act", "gaussian-act")
    }
    by_default = {"lin-act": True, "mean-act": False, "gaussian-act": False}
    assert within == (
        by_default if bounds == "authors" else dict.fromkeys(within, bounds == "range")
    )


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("lin-act", CONFIG),
        ("mean-act", CONFIG),
        ("gaussian-act", CONFIG),
        ("mean-act", replace(CONFIG, min_spread=1.0)),
    ],
)
def test_neurons_that_do_not_vary_stay_as_they_are(
    small_models: dict[str, Path], prompts: lc.PromptSet, method: str, config: lc.TrainConfig
) -> None:
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    site = model.sites(model.default_sites)[0]
    with torch.no_grad():
        model.module.get_parameter(f"{site}.weight")[3] = 0
    source, target = (
        np.stack([z.mean(0) for z in outputs(model, site, side)])
        for side in (prompts.source, prompts.target)
    )
    still = np.minimum(source.std(0, ddof=1), target.std(0, ddof=1)) <= config.min_spread
    assert still[3]
    affine = lc.fit(method, model, prompts, config).sites[site]
    np.testing.assert_array_equal(affine.changed.numpy(), ~still)
    if method != "lin-act":
        everything = lc.fit(method, model, prompts, replace(config, min_spread=0.0)).sites[site]
        assert int(everything.changed.sum()) >= int((~still).sum())


def test_a_model_ships_no_pooling_for_rivals(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lc.LanguageModel, "train_defaults", {"pooling": "last", "seed": 3})
    assert lc.TrainConfig.for_model(tiny).pooling == "last"
    assert lc.TrainConfig.for_model(tiny, "lin-act") == lc.TrainConfig(seed=3)
    assert lc.TrainConfig.for_model(tiny, "lin-act", pooling="max").pooling == "max"


def test_iti_c_searches_how_far_to_move(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    found = lc.fit("iti-c", tiny, prompts, CONFIG)
    inputs, target = tiny.prepare(prompts.source), tiny.prepare(prompts.target)
    wanted = pooled_activations(tiny, target, list(found.sites))
    left: dict[float, float] = {}
    for alpha in ALPHAS:
        smap = lc.fit("iti-c", tiny, prompts, replace(CONFIG, alpha=alpha))
        with lc.steer(tiny, [(smap, 1.0)]):
            moved = pooled_activations(tiny, inputs, list(found.sites))
        left[alpha] = sum(
            float((moved[s].sort(0).values - wanted[s].sort(0).values).square().mean())
            for s in wanted
        )
    assert found.info.config["alpha"] == min(left, key=left.__getitem__)
    best = lc.fit("iti-c", tiny, prompts, replace(CONFIG, alpha=found.info.config["alpha"]))
    for site in found.sites:
        torch.testing.assert_close(found.sites[site].shift, best.sites[site].shift)
