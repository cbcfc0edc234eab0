from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
import typer
import yaml
from torch import Tensor
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.fold import register
from lineas_core.export.checkpoint import fold
from lineas_core.maps.bounds import Bounds
from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.load import as_language_model
from tests.helpers.hub import Repository, SmallHub
from tests.helpers.models import SIZES, random_map

RANGE = Bounds(-torch.ones(16), torch.ones(16))
LINEAR = r".*\.([qkvo]|gate|up|down)_proj"


@pytest.fixture(scope="module")
def models(small_models: dict[str, Path]) -> dict[str, LanguageModel]:
    return {n: load_language(folder) for n, folder in small_models.items()}


def load_language(folder: Path) -> LanguageModel:
    return as_language_model(lc.load_model(str(folder), device="cpu"))


def map_of(model: Any, pattern: str, seed: int = 1, spread: float = 0.3) -> SteeringMap:
    """A random map for all modules that match a pattern, with widths from their weights."""
    widths = {}
    for name in model.sites(pattern):
        site = model.module.get_submodule(name)
        last = isinstance(site, transformers.pytorch_utils.Conv1D)
        widths[name] = site.weight.shape[-1 if last else 0]
    return random_map(widths, seed, spread)


def only_scales(smap: SteeringMap) -> SteeringMap:
    sites = {n: Affine(a.scale, torch.zeros_like(a.shift)) for n, a in smap.sites.items()}
    return SteeringMap(sites, smap.info)


def only_shifts(smap: SteeringMap) -> SteeringMap:
    sites = {n: Affine(torch.ones_like(a.scale), a.shift) for n, a in smap.sites.items()}
    return SteeringMap(sites, smap.info)


def tokens(length: int = 12) -> Tensor:
    return torch.randint(0, 250, (2, length), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def steered(model: LanguageModel, smap: SteeringMap, strength: float, ids: Tensor) -> Tensor:
    with lc.steer(model, [(smap, strength)]):
        logits: Tensor = model.module(ids).logits
    return logits


def plain(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max() / other.abs().max())


def small(config: transformers.PretrainedConfig, model: LanguageModel, folder: Path) -> Any:
    """A model with the given config and random weights, loaded as users do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(config)
        for name, parameter in network.named_parameters():
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return load_language(folder)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize(
    ("architecture", "pattern", "written_as"),
    [
        ("llama", "layernorm", "llama"),
        ("llama", LINEAR, "llama"),
        ("llama", rf"{LINEAR}|.*layernorm", "llama"),
        ("qwen2", r".*input_layernorm", "qwen2"),
        ("qwen2", rf"{LINEAR}|.*layernorm", "llama"),
        ("mistral", "layernorm", "llama"),
        ("mistral", "o_proj", "llama"),
        ("gpt2", r".*\.ln_\w", "gpt2"),
        ("gpt2", r".*\.c_(attn|proj|fc)", "gpt2"),
        ("gemma2", r".*input_layernorm|.*o_proj", "gemma2"),
    ],
)
def test_plain_transformers_computes_what_steering_computes(
    models: dict[str, LanguageModel],
    tmp_path: Path,
    architecture: str,
    pattern: str,
    written_as: str,
    strength: float,
) -> None:
    model = models[architecture]
    smap, ids = map_of(model, pattern), tokens()
    folder = fold(model, smap, strength, to=tmp_path / "folded")
    loaded = plain(folder)
    assert loaded.config.model_type == written_as
    wanted = steered(model, smap, strength, ids)
    assert distance(wanted, model.module(ids).logits) > 0.01
    assert distance(loaded(ids).logits, wanted) < 1e-4
    text = loaded.generate(ids[:1], max_new_tokens=4, do_sample=False)
    with lc.steer(model, [(smap, strength)]):
        assert (
            text.tolist()
            == model.module.generate(ids[:1], max_new_tokens=4, do_sample=False).tolist()
        )
    assert transformers.AutoTokenizer.from_pretrained(folder)("abc")["input_ids"]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gemma2"])
def test_scales_go_into_every_norm(
    models: dict[str, LanguageModel], tmp_path: Path, architecture: str
) -> None:
    model, ids = models[architecture], tokens()
    smap = only_scales(map_of(model, r".*norm"))
    assert "model.norm" in smap.sites
    loaded = plain(fold(model, smap, to=tmp_path / "folded"))
    assert loaded.config.model_type == architecture
    assert loaded.config.tie_word_embeddings == model.module.config.tie_word_embeddings
    assert distance(loaded(ids).logits, steered(model, smap, 1.0, ids)) < 1e-4


def test_several_maps_are_folded_as_one(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    model, ids = models["llama"], tokens()
    maps = [(map_of(model, "layernorm", 1), 0.5), (map_of(model, r".*post.*", 2), 1.0)]
    loaded = plain(fold(model, lc.compose(maps), to=tmp_path / "folded"))
    with torch.no_grad(), lc.steer(model, maps):
        wanted = model.module(ids).logits
    assert distance(loaded(ids).logits, wanted) < 1e-4


def test_the_live_model_stays_as_it_is_and_its_own_attention_is_not_written(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model = models["mistral"]
    before = {name: t.clone() for name, t in model.module.state_dict().items()}
    config = model.module.config.to_dict()
    where = {name: t.data_ptr() for name, t in model.module.state_dict().items()}
    smap = map_of(model, "layernorm")
    folder = fold(model, smap, to=tmp_path / "folded")
    after = model.module.state_dict()
    assert {name: t.data_ptr() for name, t in after.items()} == where
    assert all(torch.equal(after[name], t) for name, t in before.items())
    assert model.module.config.to_dict() == config
    assert model.module.config._attn_implementation == "packed_eager"
    for file in folder.glob("*.json"):
        assert "packed" not in file.read_text()


def test_a_process_without_this_library_loads_it(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model, ids = models["llama"], tokens()
    smap = map_of(model, "layernorm")
    folder = fold(model, smap, to=tmp_path / "folded")
    script = (
        "import importlib.util, json, sys, torch, transformers\n"
        "assert importlib.util.find_spec('lineas_core') is None\n"
        "folder, ids = sys.argv[1], torch.tensor(json.loads(sys.argv[2]))\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(folder)\n"
        "transformers.AutoTokenizer.from_pretrained(folder)\n"
        "print(json.dumps(model(ids).logits.tolist()))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), json.dumps(ids.tolist())],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert distance(theirs, steered(model, smap, 1.0, ids)) < 1e-4


def test_the_checkpoint_keeps_the_models_dtype_and_is_rounded_once(
    small_models: dict[str, Path], models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    half = lc.load_model(str(small_models["llama"]), device="cpu", dtype="bfloat16")
    smap = map_of(half, "layernorm")
    loaded = plain(fold(half, smap, to=tmp_path / "folded"))
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    site = "model.layers.1.post_attention_layernorm"
    own, (scale, shift) = half.module.get_submodule(site), smap.sites[site]
    folded = loaded.get_submodule(site)
    assert torch.equal(folded.weight, (scale * own.weight.float()).bfloat16())
    up = half.module.get_submodule("model.layers.1.mlp.up_proj").weight.float()
    bias = loaded.get_submodule("model.layers.1.mlp.up_proj").bias
    assert torch.equal(bias, (up @ shift).bfloat16())


def test_a_mistral_with_a_window_is_the_same_for_texts_that_fit_into_it(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    config = transformers.MistralConfig(**SIZES, sliding_window=8)
    model = small(config, models["llama"], tmp_path / "base")
    smap = map_of(model, "layernorm")
    folder = fold(model, smap, to=tmp_path / "folded")
    loaded = plain(folder)
    assert loaded.config.max_position_embeddings == 8
    assert "reads 8 tokens at most, not 128" in (folder / "README.md").read_text()
    assert distance(loaded(tokens(8)).logits, steered(model, smap, 1.0, tokens(8))) < 1e-4
    assert distance(loaded(tokens(20)).logits, steered(model, smap, 1.0, tokens(20))) > 1e-3
    # Without shifts it stays a Mistral, including its sliding window.
    whole = plain(fold(model, only_scales(smap), to=tmp_path / "scales"))
    wanted = steered(model, only_scales(smap), 1.0, tokens(20))
    assert distance(whole(tokens(20)).logits, wanted) < 1e-4


@pytest.mark.parametrize(
    ("use", "longest"), [({"max_window_layers": 3}, 128), ({"max_window_layers": 1}, 8)]
)
def test_a_qwen2_has_a_window_only_in_the_layers_that_use_it(
    models: dict[str, LanguageModel], tmp_path: Path, use: Mapping[str, int], longest: int
) -> None:
    # Without head_dim, like the published configs.
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    config = transformers.Qwen2Config(
        **sizes,
        **use,
        use_sliding_window=True,
        sliding_window=8,
        tie_word_embeddings=True,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    model = small(config, models["llama"], tmp_path / "base")
    smap = map_of(model, "post_layernorm")
    loaded = plain(fold(model, smap, to=tmp_path / "folded"))
    assert loaded.config.max_position_embeddings == longest
    ids = tokens(min(longest, 20))
    assert distance(loaded(ids).logits, steered(model, smap, 1.0, ids)) < 1e-4


def test_a_window_under_scaled_positions_is_refused(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    scaled = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 64,
    }
    config = transformers.MistralConfig(**SIZES, sliding_window=8, rope_parameters=scaled)
    model = small(config, models["llama"], tmp_path / "base")
    with pytest.raises(lc.SiteError, match="3 sites .* a mistral checkpoint can have none"):
        fold(model, map_of(model, "post_layernorm"), to=tmp_path / "folded")


def test_qwen3_has_biases_before_attention_only(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model = small(transformers.Qwen3Config(**SIZES), models["llama"], tmp_path / "base")
    smap, ids = map_of(model, r".*input_layernorm"), tokens()
    loaded = plain(fold(model, smap, to=tmp_path / "folded"))
    assert loaded.config.model_type == "qwen3"
    assert distance(loaded(ids).logits, steered(model, smap, 1.0, ids)) < 1e-4
    with pytest.raises(lc.SiteError, match="needs a bias in gate_proj and up_proj, and a qwen3"):
        fold(model, map_of(model, "post_layernorm"), to=tmp_path / "no")


def test_what_cannot_be_folded_is_named(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    gemma, to = models["gemma2"], tmp_path / "folded"
    smap = map_of(gemma, "post_layernorm")
    with pytest.raises(lc.SiteError, match="6 sites cannot be folded.*shifts are zero") as refused:
        fold(gemma, smap, to=to)
    assert all(site in str(refused.value) for site in smap.sites)
    with pytest.raises(lc.SiteError, match="needs a bias in gate_proj and up_proj, and a gemma2"):
        fold(gemma, map_of(gemma, r".*pre_feed.*"), to=to)
    llama = models["llama"]
    with pytest.raises(lc.SiteError, match="1 site cannot .* model.norm: a norm without a bias"):
        fold(llama, map_of(llama, r".*\.norm|.*layernorm"), to=to)
    with pytest.raises(lc.SiteError, match="layers.1.mlp: only linear .*lineas_core.steer"):
        fold(llama, random_map({"model.layers.1.mlp": 16}, 0), to=to)
    with pytest.raises(lc.SiteError, match="has width 16 on this model and 5 in the map"):
        fold(llama, random_map({"model.layers.1.input_layernorm": 5}, 0), to=to)
    with pytest.raises(lc.SiteError, match="has width 24 on this model and 5 in the map"):
        fold(llama, random_map({"model.layers.1.mlp.up_proj": 5}, 0), to=to)
    with pytest.raises(lc.SiteError, match="no module 'nothing'"):
        fold(llama, random_map({"nothing": 5}, 0), to=to)
    gpt2 = models["gpt2"]
    with pytest.raises(lc.SiteError, match="lm_head: other modules use the same weights"):
        fold(gpt2, random_map({"lm_head": 300}, 0), to=to)
    ranged = replace(map_of(llama, ".*layernorm"), bounds={"model.layers.1.input_layernorm": RANGE})
    with pytest.raises(lc.SiteError, match=r"1 site .*layers\.1\.input_layernorm: .*bounds='none'"):
        fold(llama, ranged, to=to)
    # An untied head accepts a scale but no shift.
    head = random_map({"lm_head": 300}, 0)
    with pytest.raises(lc.SiteError, match="needs a bias in lm_head, and a llama"):
        fold(llama, head, to=to)
    assert list(tmp_path.iterdir()) == []
    ids = tokens()
    loaded = plain(fold(llama, only_scales(head), to=to))
    assert distance(loaded(ids).logits, steered(llama, only_scales(head), 1.0, ids)) < 1e-4


def test_sites_that_change_nothing_are_left_out(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model, ids = models["gemma2"], tokens()
    smap = map_of(model, "post_layernorm")
    loaded = plain(fold(model, smap, 0.0, to=tmp_path / "folded"))
    assert torch.equal(loaded(ids).logits, model.module(ids).logits)


def test_a_folder_is_written_whole_or_not_at_all(
    models: dict[str, LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["llama"]
    smap = map_of(model, "layernorm")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    for taken in (tmp_path / "mine", tmp_path / "mine" / "x"):
        with pytest.raises(lc.ConfigError, match="is not empty"):
            fold(model, smap, to=taken)
    with pytest.raises(lc.ConfigError, match="Cannot write"):
        fold(model, smap, to=tmp_path / "mine" / "x" / "y")
    with pytest.raises(lc.ConfigError, match="strength is nan"):
        fold(model, smap, float("nan"), to=tmp_path / "new")

    def full(*args: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model.tokenizer, "save_pretrained", full)
        with pytest.raises(lc.ConfigError, match="No space left"):
            fold(model, smap, to=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "new").mkdir()
    assert plain(fold(model, smap, to=tmp_path / "new"))


def test_the_card_says_how_it_was_made(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    model, smap = models["llama"], map_of(models["llama"], "layernorm")
    card = (fold(model, smap, 0.5, to=tmp_path / "a") / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "at strength 0.5 was folded into its weights at 6 sites (method random" in card
    assert smap.digest() in card
    assert "# llama, steered towards random 1" in card
    assert str(Path(model.id).parent) not in card


LICENSES = {
    "README.md": b"---\nlicense: other\nlicense_name: bobs\nlicense_link: LICENSE\n---\n# Llama",
    "LICENSE": b"By Bob.",
    "USE_POLICY.md": b"Be kind.",
    "licenses.json": b"{}",
}


def check_license(folder: Path, base: str) -> None:
    card = (folder / "README.md").read_text()
    data = yaml.safe_load(card.split("---\n")[1])
    assert [data[f"license{end}"] for end in ("", "_name", "_link")] == ["other", "bobs", "LICENSE"]
    assert data.get("base_model", "") == base
    assert data.get("base_model_relation", "") == ("finetune" if base else "")
    assert "Its licence, bobs, holds for this checkpoint too (LICENSE, USE_POLICY.md)." in card
    for name in ("LICENSE", "USE_POLICY.md"):
        assert (folder / name).read_bytes() == LICENSES[name]
    assert not (folder / "licenses.json").exists()


def test_a_checkpoint_has_the_licence_of_a_folder(
    small_models: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(small_models["llama"], tmp_path / "base")
    for name, text in LICENSES.items():
        (tmp_path / "base" / name).write_bytes(text)
    model = as_language_model(lc.load_model(str(tmp_path / "base"), device="cpu"))
    check_license(fold(model, map_of(model, "layernorm"), to=tmp_path / "folded"), "")


def test_a_checkpoint_has_the_licence_of_a_repository(
    hub: SmallHub, small_models: dict[str, Path], tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in small_models["llama"].iterdir()}
    hub.repositories["bob/llama"] = Repository("model", private=False)
    hub.repositories["bob/llama"].commit({**files, **LICENSES})
    model = as_language_model(lc.load_model("bob/llama", device="cpu"))
    smap = map_of(model, "layernorm")
    check_license(fold(model, smap, to=tmp_path / "folded"), "bob/llama")
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    card = (fold(model, smap, to=tmp_path / "offline") / "README.md").read_text()
    assert "license_name: bobs" in card, "it is in the cache"
    assert "holds for this checkpoint too (https://huggingface.co/bob/llama)." in card


def test_maps_are_folded_from_a_terminal(
    models: dict[str, LanguageModel], small_models: dict[str, Path], tmp_path: Path
) -> None:
    model, ids = models["llama"], tokens()
    one, two = map_of(model, "layernorm", 1), map_of(model, "o_proj", 2)
    files = [str(m.save(tmp_path / f"{i}.safetensors")) for i, m in enumerate((one, two))]
    app = typer.Typer()
    register(app)
    call = ["--model", str(small_models["llama"]), "--device", "cpu", "--json"]
    done = CliRunner().invoke(
        app, [*call, "--map", f"{files[0]}@0.5", "--map", files[1], "--to", str(tmp_path / "both")]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "both")
    with torch.no_grad(), lc.steer(model, [(one, 0.5), (two, 1.0)]):
        wanted = model.module(ids).logits
    assert distance(plain(tmp_path / "both")(ids).logits, wanted) < 1e-4


@pytest.mark.embedded
def test_plain_transformers_computes_what_the_steered_embedded_model_computes(
    smollm2: LanguageModel, tmp_path: Path
) -> None:
    smap = map_of(smollm2, "post_layernorm", spread=0.05)
    folder = fold(smollm2, smap, to=tmp_path / "folded")
    loaded = plain(folder)
    assert loaded.dtype == smollm2.module.dtype
    ids = torch.tensor([smollm2.tokenizer("Once upon a time there was a king.")["input_ids"]])
    near = 1e-4 if loaded.dtype == torch.float32 else 0.05
    with torch.no_grad():
        assert distance(loaded(ids).logits.float(), steered(smollm2, smap, 1.0, ids).float()) < near
