from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lineas_core as lc
from lineas_core.maps.steering_map import Affine
from lineas_core.models.language.model import LanguageModel
from tests.export.rivals import repeng
from tests.export.test_checkpoint import (
    distance,
    load_language,
    only_shifts,
    plain,
    steered,
    tokens,
)
from tests.helpers.models import random_map
from tests.helpers.pipelines import Touch

WIDTH = 16


@pytest.fixture(scope="module")
def models(small_models: dict[str, Path]) -> dict[str, LanguageModel]:
    return {name: load_language(small_models[name]) for name in ("llama", "gpt2")}


def vectors(*layers: int, seed: int = 0) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(WIDTH, generator=generator) for layer in layers}


SUFFIXES = {
    "llama": {
        "decoder_block": "",
        "self_attn": ".self_attn",
        "mlp": ".mlp",
        "input_layernorm": ".input_layernorm",
        "post_attention_layernorm": ".post_attention_layernorm",
    },
    "gpt2": {
        "decoder_block": "",
        "self_attn": ".attn",
        "mlp": ".mlp",
        "input_layernorm": ".ln_1",
        "post_attention_layernorm": ".ln_2",
    },
}
LAYERS = {"llama": "model.layers.{num}", "gpt2": "transformer.h.{num}"}


@pytest.mark.parametrize("kind", SUFFIXES["llama"])
@pytest.mark.parametrize("family", LAYERS)
def test_steering_vectors_steers_as_the_map_that_was_made_of_it(
    models: dict[str, LanguageModel], small_models: dict[str, Path], family: str, kind: str
) -> None:
    library = pytest.importorskip("steering_vectors")
    vector = library.SteeringVector(vectors(0, 2), kind)
    template = LAYERS[family] + SUFFIXES[family][kind]
    smap = lc.import_map(vector, layers="" if family == "llama" else template)
    assert list(smap.sites) == [template.format(num=0), template.format(num=2)]
    model, ids = models[family], tokens()
    other = plain(small_models[family])
    with vector.apply(other, multiplier=0.7):
        wanted = other(ids).logits.detach()
    assert distance(steered(model, smap, 0.7, ids), wanted) < 1e-5
    assert distance(wanted, model.module(ids).logits) > 1e-3
    # And back: its own code applies what is written, to the same modules.
    again = lc.to_steering_vector(smap)
    assert again.layer_type == kind
    with again.apply(other, multiplier=0.7):
        assert distance(other(ids).logits, wanted) < 1e-6


def test_repeng_steers_as_the_map_that_was_made_of_it(
    models: dict[str, LanguageModel], small_models: dict[str, Path]
) -> None:
    library, ids = repeng(), tokens()
    directions = {layer: vector.numpy() for layer, vector in vectors(1, 2).items()}
    vector = library.ControlVector("llama", directions)
    smap = lc.import_map(vector)
    assert smap.info.model == "llama"
    wrapped = library.ControlModel(plain(small_models["llama"]), [1, 2])
    wrapped.set_control(vector, -1.5)
    # repeng expects a row of position ids for each text, as `generate` passes them.
    wanted = wrapped(ids, position_ids=torch.arange(ids.shape[1]).expand_as(ids)).logits.detach()
    assert distance(steered(models["llama"], smap, -1.5, ids), wanted) < 1e-5
    assert distance(wanted, models["llama"].module(ids).logits) > 1e-3


def test_what_no_steering_vector_holds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = only_shifts(random_map({"model.layers.1": 4, "model.layers.1.mlp": 4}, 0))
    with pytest.raises(lc.SiteError, match=r"^1 site .*layers\.1\.mlp: .*decoder_block"):
        lc.to_steering_vector(mixed)
    with pytest.raises(lc.SiteError, match=r"layers\.1\.mlp: .*scales"):
        lc.to_steering_vector(random_map({"model.layers.1.mlp": 4}, 0))
    monkeypatch.setitem(sys.modules, "steering_vectors", None)
    with pytest.raises(lc.ConfigError, match="pip install --no-deps steering-vectors"):
        lc.to_steering_vector(only_shifts(random_map({"model.layers.1.mlp": 4}, 0)))


def test_a_dictionary_of_layers_is_a_map(tmp_path: Path) -> None:
    given = {10: torch.arange(4.0, dtype=torch.bfloat16), 2: torch.ones(4, requires_grad=True)}
    torch.save(given, tmp_path / "calm.pt")
    smap = lc.import_map(tmp_path / "calm.pt", layers="model.layers.{num}.mlp")
    assert [(name, a.shift.tolist()) for name, a in smap.sites.items()] == [
        ("model.layers.2.mlp", [1, 1, 1, 1]),
        ("model.layers.10.mlp", [0, 1, 2, 3]),
    ]
    assert smap.info.name == "calm"
    smap.save(tmp_path / "calm.safetensors")


def test_files_of_caa_are_a_map(tmp_path: Path) -> None:
    folder = tmp_path / "sycophancy"
    folder.mkdir()
    given = vectors(2, 13)
    for layer, vector in given.items():
        torch.save(vector.half(), folder / f"vec_layer_{layer}_Llama-2-7b-chat-hf.pt")
    (folder / "notes.txt").touch()
    smap = lc.import_map(folder)
    assert list(smap.sites) == ["model.layers.2", "model.layers.13"]
    for layer, vector in given.items():
        assert torch.equal(smap.sites[f"model.layers.{layer}"].shift, vector.half().float())
    assert (smap.info.model, smap.info.name) == ("Llama-2-7b-chat-hf", "sycophancy")
    assert smap.info.config["notes"]
    one = lc.import_map(folder / "vec_layer_13_Llama-2-7b-chat-hf.pt")
    assert list(one.sites) == ["model.layers.13"]
    torch.save(given[2], folder / "vec_layer_2_Llama-2-13b-chat-hf.pt")
    with pytest.raises(lc.MapError, match=r"vec_layer_2_.*layer 2 too"):
        lc.import_map(folder)


def within(z: Tensor, state: Mapping[str, Any]) -> Tensor:
    lower, upper = state["quantiles_src"]
    return (lower < z) & (z < upper)


def linear_ot(z: Tensor, state: Mapping[str, Any]) -> Tensor:
    return torch.where(within(z, state), z * state["net.w1"] + state["net.b1"], z)


def gaussian_ot(z: Tensor, state: Mapping[str, Any]) -> Tensor:
    mask = (state["std1"] > 1e-4) & (state["std2"] > 1e-4)
    mu1, mu2, std1, std2 = (state[key][mask] for key in ("mu1", "mu2", "std1", "std2"))
    moved, some = z.clone(), z[:, mask]
    moved[:, mask] = torch.where(within(some, state), std2 / std1 * (some - mu1) + mu2, some)
    return moved


def mean_ot(z: Tensor, state: Mapping[str, Any]) -> Tensor:
    mask = (state["std1"] > 1e-4) & (state["std2"] > 1e-4)
    moved, some = z.clone(), z[:, mask]
    shifted = some - state["mu1"][mask] + state["mu2"][mask]
    moved[:, mask] = torch.where(within(some, state), shifted, some)
    return moved


def aura(z: Tensor, state: Mapping[str, Any]) -> Tensor:
    damped = z * (1 - 2 * (state["auroc"] - 0.5))
    return torch.where(state["auroc"] > 0.5, damped, z)


HOOKS = {hook.__name__: hook for hook in (linear_ot, gaussian_ot, mean_ot, aura)}


def state_of(method: str, seed: int, ranged: bool = False) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    a, b, c, d = torch.randn(4, WIDTH, generator=generator)
    limits: dict[str, Any] = {
        "quantiles_dict_src": {"q_0_100": [a, b]},
        "quantiles_src": [-1e6, 1e6],
    }
    moved = torch.ones(WIDTH, dtype=torch.bool)
    if method in ("gaussian_ot", "mean_ot"):
        moved[:2] = False
    if ranged:
        limits["quantiles_src"] = [a[moved][None] - 0.5, a[moved][None] + 0.5]
    if method == "linear_ot":
        return {"net.w1": a[None], "net.b1": b[None], **limits}
    if method == "aura":
        return {"auroc": a.sigmoid()}
    spread, target = c.abs(), d.abs()
    spread[0] = target[1] = 1e-5
    return {"mu1": a, "mu2": b, "std1": spread, "std2": target, **limits}


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize("method", HOOKS)
def test_interventions_of_ml_act_are_a_map(tmp_path: Path, method: str, ranged: bool) -> None:
    folder = tmp_path / f"atonce-{method}-mean"
    folder.mkdir()
    states = {n: state_of(method, n, ranged) for n in (2, 10)}
    for layer, state in states.items():
        torch.save(state, folder / f"model.layers.{layer}.post_attention_layernorm:0.statedict")
    smap = lc.import_map(folder)
    names = {n: f"model.layers.{n}.post_attention_layernorm" for n in states}
    assert list(smap.sites) == list(names.values())
    z = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(9))
    for layer, name in names.items():
        wanted = HOOKS[method](z, states[layer])
        bounds = {"0": smap.bounds[name]} if ranged and method != "aura" else {}
        model = nn.Sequential(nn.Identity())
        with lc.steer(model, [(lc.SteeringMap({"0": smap.sites[name]}, bounds=bounds), 1.0)]):
            torch.testing.assert_close(model(z), wanted, rtol=1e-5, atol=1e-5)
    assert smap.info.config == {"format": f"ml-act {method}", "notes": []}
    smap.save(tmp_path / "map.safetensors")


def test_a_map_of_ml_act_says_where_it_acts_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "atonce-gaussian_ot-mean"
    folder.mkdir()
    file = folder / "unet.down_blocks.0.resnets.0.norm1.statedict"
    tokens_site = folder / "unet.mid_block.attentions.0.transformer_blocks.0.norm1.statedict"
    for method, ranged, said in (
        ("linear_ot", False, "moves the mean over height and width"),
        ("linear_ot", True, ""),
        ("gaussian_ot", True, "scales every place"),
        ("gaussian_ot", False, ""),
    ):
        torch.save(state_of(method, 0, ranged), file)
        notes = lc.import_map(file).info.config["notes"]
        assert len(notes) == bool(said)
        assert all(said in note for note in notes)
        torch.save(state_of(method, 0, ranged), tokens_site)
        assert lc.import_map(tokens_site).info.config["notes"] == []
    torch.save({**state_of("linear_ot", 0), "quantiles_src": [torch.ones(2)] * 2}, file)
    with pytest.raises(lc.MapError, match=rf"norm1.*quantiles_src holds \[2, 2\].*{WIDTH} neurons"):
        lc.import_map(file)


class Behaviour:
    """Any object of somebody's own class."""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a.pt", Behaviour(), r"a\.pt holds objects.*layer_activations"),
        ("a.pt", {1: np.ones(4)}, r"a\.pt holds objects"),
        ("a.pt", torch.ones(4), r"a\.pt holds one vector.*vec_layer_13"),
        ("a.pt", {"v": torch.ones(4)}, r"a\.pt holds no vector and no map"),
        ("a.pt", {}, r"a\.pt holds no vector and no map"),
        ("a.pt", {1: torch.ones(2, 4)}, r"a\.pt: layer 1 holds a tensor of shape \(2, 4\)"),
        ("a.pt", {1: torch.ones(4, dtype=torch.int64)}, r"a\.pt: layer 1 holds"),
        ("a.pt", {1: "v"}, r"a\.pt: layer 1 holds str"),
        ("a.pt", {-1: torch.ones(4)}, "layer -1"),
        ("a.pt", {1: torch.tensor([1.0, torch.nan])}, r"model\.layers\.1.*not finite"),
        ("vec_layer_3_m.pt", torch.ones(1, 4), r"vec_layer_3_m\.pt: layer 3 holds"),
        ("x.statedict", {"mu1": torch.ones(4)}, r"x\.statedict is of gaussian_ot or of mean_ot"),
        ("x.statedict", {"net.w1": torch.ones(4)}, r"x\.statedict lacks the tensor net\.b1"),
        (
            "x.statedict",
            {"net.w1": torch.ones(4), "net.b1": torch.ones(3)},
            r"x\.statedict: .*lengths \[3, 4\]",
        ),
        ("x:1.statedict", {"auroc": torch.ones(4)}, "x:1.statedict acts on output 1"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, name: str, value: object, message: str) -> None:
    torch.save(value, tmp_path / name)
    with pytest.raises(lc.MapError, match=message):
        lc.import_map(tmp_path / name)


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    for name in ("a.pt", "vec_layer_3_m.pt", "x.statedict"):
        torch.save({1: Touch(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(lc.MapError, match="objects"):
            lc.import_map(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(lc.MapError, match=r"There is no file 'none\.pt'"):
        lc.import_map(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not a vector")
    with pytest.raises(lc.MapError, match=r"text\.pt"):
        lc.import_map(tmp_path / "text.pt")
    torch.save(vectors(1), whole := tmp_path / "cut.pt")
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(lc.MapError, match=r"cut\.pt is not a readable file"):
        lc.import_map(whole)
    (tmp_path / "empty").mkdir()
    with pytest.raises(lc.MapError, match="empty holds 0 files"):
        lc.import_map(tmp_path / "empty")
    with pytest.raises(lc.MapError, match="A Affine is no file"):
        lc.import_map(Affine(torch.ones(1), torch.ones(1)))


def test_sites_are_where_the_caller_says(tmp_path: Path) -> None:
    torch.save(vectors(1), tmp_path / "a.pt")
    with pytest.raises(lc.ConfigError, match=r"layers is 'model\.layers'.*\{num\}"):
        lc.import_map(tmp_path / "a.pt", layers="model.layers")
    torch.save({"auroc": torch.ones(4)}, tmp_path / "x.statedict")
    with pytest.raises(lc.ConfigError, match="name their modules"):
        lc.import_map(tmp_path / "x.statedict", layers="model.layers.{num}")
    library = pytest.importorskip("steering_vectors")
    with pytest.raises(lc.ConfigError, match="'router'"):
        lc.import_map(library.SteeringVector(vectors(1), "router"))
