"""Models whose files lead their loaders to pickles, to files elsewhere, or to other packages."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import lineas_core as lc
from lineas_core.metrics.toxicity import load_toxicity_scorer
from lineas_core.models.image import pipelines
from lineas_core.models.language import checkpoint
from lineas_core.models.shared.foreign_files import check_files
from tests.helpers.hub import Repository, SmallHub
from tests.helpers.pipelines import small_sd

INDEX = "model.safetensors.index.json"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def led_to(folder: Path, named: str, weights: str = "model") -> Path:
    """The folder, with an index in place of its weights: all are in the file `named`."""
    whole = folder / f"{weights}.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    if named.endswith(".bin"):
        torch.save(tensors, folder / Path(named).name)
    else:
        save_file(tensors, folder / Path(named).name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, named)}
    (folder / f"{weights}.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def llama(small_models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_models["llama"], tmp_path / "llama"))


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    small_sd().save_pretrained(tmp_path / "sd")
    return tmp_path / "sd"


def put(folder: Path, file: str, **settings: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("named", ["shard.bin", "../shard.safetensors", "..\\shard.safetensors"])
def test_an_index_names_files_in_safetensors_beside_it(llama: Path, named: str) -> None:
    led_to(llama, named)
    with pytest.raises(lc.ModelError) as refused:
        lc.load_model(str(llama), device="cpu")
    assert INDEX in str(refused.value)
    assert repr(named) in str(refused.value)


def test_the_index_of_an_ordinary_checkpoint_is_read(llama: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(llama)
    led_to(llama, "model-00001-of-00001.safetensors")
    sharded = lc.load_model(str(llama), device="cpu")
    assert isinstance(sharded, lc.LanguageModel)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(sharded.module.state_dict()[name], tensor)


def test_the_settings_of_a_model_name_no_pickle(llama: Path) -> None:
    put(llama, "config.json", transformers_weights="adapter_model.bin")
    torch.save(load_file(llama / "model.safetensors"), llama / "adapter_model.bin")
    with pytest.raises(lc.ModelError, match=r"config\.json .*'adapter_model\.bin'"):
        lc.load_model(str(llama), device="cpu")


def test_an_adapter_is_refused_as_it_leads_to_another_model(llama: Path) -> None:
    (llama / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "else/where"})
    )
    with pytest.raises(lc.ModelError, match=r"adapter_config\.json.*merge_and_unload"):
        lc.load_model(str(llama), device="cpu")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 99 + "]" * 99])
def test_an_index_that_cannot_be_read_is_named(llama: Path, text: str) -> None:
    (llama / INDEX).write_text(text)
    with pytest.raises(lc.ModelError, match=INDEX.replace(".", r"\.")):
        lc.load_model(str(llama), device="cpu")


def test_a_model_of_the_hub_is_read_no_further_than_a_folder(hub: SmallHub, llama: Path) -> None:
    led_to(llama, "shard.bin")
    repository = hub.repositories["else/where"] = Repository("model", private=False)
    repository.commit(files_of(llama))
    with pytest.raises(lc.ModelError, match=r"index\.json of else/where names 'shard\.bin'"):
        lc.load_model("else/where", device="cpu")


# diffusers hands an argument to the hub's client that it no longer reads.
@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks`:UserWarning")
@pytest.mark.parametrize("kind", ["llama", "pipeline"])
def test_the_commit_that_was_looked_at_is_loaded(
    kind: str, hub: SmallHub, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Path = request.getfixturevalue(kind)
    repository = hub.repositories["else/where"] = Repository("model", private=False)
    harmless = repository.commit(files_of(folder))
    part, weights = ("unet", "diffusion_pytorch_model") if kind == "pipeline" else (".", "model")
    led_to(folder / part, "shard.bin", weights)

    def look_before_the_branch_moves(*given: Any, **settings: Any) -> str:
        found = check_files(*given, **settings)
        repository.commit(files_of(folder))
        hub.seen.clear()
        return found

    for module in (checkpoint, pipelines):
        monkeypatch.setattr(module, "check_files", look_before_the_branch_moves)
    lc.load_model("else/where", device="cpu")
    assert repository.main != harmless
    assert {line.split("/")[4] for line in hub.seen if "/resolve/" in line} == {harmless}


def test_a_scorer_is_read_no_further_than_a_model(llama: Path) -> None:
    led_to(llama, "shard.bin")
    with pytest.raises(lc.ModelError, match=r"index\.json .*'shard\.bin'"):
        load_toxicity_scorer(str(llama), "cpu")


def test_the_parts_of_a_pipeline_are_looked_into(pipeline: Path) -> None:
    led_to(pipeline / "unet", "shard.bin", "diffusion_pytorch_model")
    with pytest.raises(lc.ModelError, match=r"unet/diffusion_.*index\.json .*'shard\.bin'"):
        lc.load_model(str(pipeline), device="cpu")


def test_parts_of_a_pipeline_are_of_no_other_package(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "of_a_stranger.py"
    package.parent.mkdir()
    package.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(package.parent)
    put(pipeline, "model_index.json", vae=["of_a_stranger", "AutoencoderKL"])
    with pytest.raises(lc.ModelError, match="'vae' from 'of_a_stranger'"):
        lc.load_model(str(pipeline), device="cpu")
    assert not (tmp_path / "ran").exists()
    assert "of_a_stranger" not in sys.modules


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("text_encoder", ["transformers", "NoSuchClass"]),
        ("vae", ["diffusers", "pipelines"]),
        ("unet", ["diffusers", 3]),
    ],
)
def test_a_part_is_a_class_of_its_package(pipeline: Path, part: str, kind: list[Any]) -> None:
    put(pipeline, "model_index.json", **{part: kind})
    with pytest.raises(lc.ModelError, match=f"{kind[1]!r} as its part '{part}'"):
        lc.load_model(str(pipeline), device="cpu")


def test_the_class_of_a_pipeline_is_a_name(pipeline: Path) -> None:
    put(pipeline, "model_index.json", _class_name=["of_a_stranger", "Pipeline"])
    with pytest.raises(lc.ModelError, match="of_a_stranger"):
        lc.load_model(str(pipeline), device="cpu")
