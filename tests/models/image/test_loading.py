from __future__ import annotations

import io
import math
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

import lineas_core as lc
from lineas_core.models.image.lora import merge_lora
from lineas_core.models.image.model import (
    TRAIN_DEFAULTS,
    DiffusionModel,
)
from lineas_core.models.image.pipelines import load_unet, plan_memory
from lineas_core.models.shared.catalog import CatalogEntry, Checkpoint, catalog
from tests.helpers.hub_cache import put_in_cache
from tests.helpers.pipelines import (
    SIZE,
    Touch,
    small_sd,
    small_unet,
    small_unet_xl,
)

# diffusers' Euler schedulers convert tensors to arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def test_a_checkpoint_of_another_network_or_with_code_in_it_is_refused(
    tmp_path: Path, small: dict[str, Path], entries: dict[str, CatalogEntry]
) -> None:
    def attempt() -> None:
        DiffusionModel.from_pretrained(
            entry.hub, id=entry.id, device=torch.device("cpu"), dtype=torch.float32, entry=entry
        )

    entry = replace(entries["dmd2-sdxl-1step"], unet=Checkpoint(str(tmp_path), "unet.bin"))
    with pytest.raises(lc.ModelError, match=r"Cannot load dmd2-sdxl-1step .*unet\.bin"):
        attempt()
    torch.save(small_unet().state_dict(), tmp_path / "unet.bin")
    with pytest.raises(lc.ModelError, match=r"unet\.bin of .* does not fit .*add_embedding"):
        attempt()
    (tmp_path / "unet.bin").write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=2))
    with pytest.raises(lc.ModelError, match=r"Cannot load dmd2-sdxl-1step .*[Ww]eights.only"):
        attempt()
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_the_hub_needs_a_pinned_commit_and_the_sum_that_it_names(
    tmp_path: Path, small: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, file = "somebody/unet", "unet.bin"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.manual_seed(1)
    weights = io.BytesIO()
    torch.save(small_unet_xl().state_dict(), weights)
    blob = put_in_cache(tmp_path, repo, "a" * 40, file, weights.getvalue())

    pinned = Checkpoint(repo, file, "a" * 40)
    unet = load_unet(str(small["xl"]), pinned, torch.float32)
    torch.manual_seed(1)
    wanted = small_unet_xl().state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in unet.state_dict().items())

    for revision in ("", "main", "a" * 39):
        with pytest.raises(lc.ModelError, match="is a pickle, and its revision is"):
            load_unet(str(small["xl"]), Checkpoint(repo, file, revision), torch.float32)
    blob.write_bytes(weights.getvalue() + b"changed")
    with pytest.raises(lc.ModelError, match=r"unet\.bin of somebody/unet has the SHA-256"):
        load_unet(str(small["xl"]), pinned, torch.float32)


def test_every_pickle_of_the_catalogue_is_pinned() -> None:
    added = [entry.added for entry in catalog().values() if entry.added]
    pickled = [each for each in added if each.file.endswith(".bin")]
    assert pickled
    assert all(re.fullmatch("[0-9a-f]{40}", each.revision) for each in pickled)


def test_a_low_rank_update_is_merged_as_diffusers_applies_it(
    load: Any, small: dict[str, Path], entries: dict[str, CatalogEntry]
) -> None:
    entry = entries["qwen-image-lightning-4step"]
    model = load(entry.id)
    pipeline = QwenImagePipeline.from_pretrained(small["qwen"])
    kind = FlowMatchEulerDiscreteScheduler
    # What the authors' generate_with_diffusers.py changes in the scheduler of Qwen-Image.
    pipeline.scheduler = kind(
        base_shift=math.log(3), max_shift=math.log(3), max_image_seq_len=8192,
        shift_terminal=None, use_dynamic_shifting=True,
    )  # fmt: skip
    settings = {
        "height": entry.size, "width": entry.size, "num_inference_steps": 4, "true_cfg_scale": 1.0,
        "max_sequence_length": entry.tokens, "output_type": "latent",
    }  # fmt: skip
    latents = model.prepare(["abc"]).latents

    def drawn(pipeline: Any) -> Tensor:
        return pipeline("abc", latents=latents, **settings).images

    untouched = drawn(pipeline)
    assert entry.lora
    pipeline.load_lora_weights(entry.lora.repo, weight_name=entry.lora.file)
    torch.testing.assert_close(drawn(model.pipeline), drawn(pipeline), rtol=1e-4, atol=1e-4)
    assert (untouched - drawn(pipeline)).abs().max() > 0.1


def test_a_low_rank_update_of_another_network_is_refused(
    tmp_path: Path, small: dict[str, Path], entries: dict[str, CatalogEntry]
) -> None:
    entry = entries["qwen-image-lightning-4step"]
    assert entry.lora
    tensors = load_file(Path(entry.lora.repo) / entry.lora.file)
    wide = tensors["transformer_blocks.1.attn.to_q.lora_down.weight"]
    tensors["transformer_blocks.1.attn.to_q.lora_down.weight"] = torch.cat([wide, wide], dim=1)
    save_file(tensors, tmp_path / entry.lora.file)
    wrong = replace(entry, lora=replace(entry.lora, repo=str(tmp_path)))
    with pytest.raises(lc.ModelError, match=r"4steps.* does not fit .*blocks\.1\.attn\.to_q"):
        DiffusionModel.from_pretrained(
            wrong.hub, id=wrong.id, device=torch.device("cpu"), dtype=torch.float32, entry=wrong
        )


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ("transformer_blocks.1.attn.to_q.lora_magnitude_vector", None),
        ("transformer_blocks.1.attn.to_q.lora_B.bias", None),
        (None, "transformer_blocks.1.attn.to_q.lora_B.weight"),
    ],
)
def test_a_low_rank_update_is_merged_whole_or_not_at_all(
    tmp_path: Path, small: dict[str, Path], more: str | None, less: str | None
) -> None:
    pipeline = QwenImagePipeline.from_pretrained(small["qwen"])
    before = {name: weight.clone() for name, weight in pipeline.transformer.named_parameters()}
    layers = [name.removesuffix(".weight") for name in before if name.endswith("to_q.weight")]
    # In diffusers' own format, which passes on what it does not know.
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, len(before[f"{layer}.weight"][0]))
               for layer in layers}  # fmt: skip
    tensors |= {f"{layer}.lora_B.weight": torch.ones(len(before[f"{layer}.weight"]), 2)
                for layer in layers}  # fmt: skip
    if more:
        tensors[more] = torch.ones(2)
    if less:
        del tensors[less]
    save_file({f"transformer.{name}": t for name, t in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(lc.ModelError, match=re.escape(str(more or less))):
        merge_lora(pipeline, Checkpoint(str(tmp_path), "a.safetensors"))
    for name, weight in pipeline.transformer.named_parameters():
        assert torch.equal(weight, before[name])


def test_the_small_decoder_is_taken_where_it_is_asked_for(load: Any, tiny: Any) -> None:
    model = load("dmd2-sdxl-1step", tiny_vae=True)
    assert isinstance(model.pipeline.vae, AutoencoderTiny)
    assert model.generate(["abc"])[0].size == (SIZE, SIZE)
    with pytest.raises(lc.ConfigError, match="tiny_vae is True"):
        load(tiny.id, tiny_vae=True)


def test_any_folder_of_the_three_classes_loads(small: dict[str, Path], tmp_path: Path) -> None:
    for kind, part in [("sd", "unet"), ("flux", "transformer")]:
        model = lc.load_model(str(small[kind]), device="cpu")
        assert isinstance(model, DiffusionModel)
        assert all(site.startswith(f"{part}.") for site in model.sites(model.default_sites))
        assert lc.TrainConfig.for_model(model) == lc.TrainConfig(**TRAIN_DEFAULTS)
        assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    other = shutil.copytree(small["sd"], tmp_path / "other")
    index = (other / "model_index.json").read_text()
    (other / "model_index.json").write_text(index.replace("StableDiffusionPipe", "OtherPipe"))
    with pytest.raises(lc.ModelError, match="is a OtherPipeline; this library runs Stable"):
        lc.load_model(str(other), device="cpu")
    with pytest.raises(lc.ConfigError, match="knows none for"):
        lc.load_model(str(small["sd"]), device="cpu", tiny_vae=True)


def test_loading_and_generating_print_no_complaint(
    load: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    load("emoji-onestep").generate(["abc"])
    load("dmd2-sdxl-4step", tiny_vae=True).generate(["abc"])
    printed = capfd.readouterr()
    lines = [line for line in re.split(r"[\r\n]", printed.out + printed.err) if line.strip()]
    assert all(line.startswith("Loading weights") for line in lines), lines


def test_weights_that_are_missing_and_memory_that_is_short_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = replace(catalog()["emoji-onestep"], folder="assets/none")
    huge = replace(catalog()["sd-turbo"], memory=1e6)
    monkeypatch.setattr("lineas_core.models.load.catalog", lambda: {"absent": absent, "huge": huge})
    with pytest.raises(lc.ModelError, match=r"emoji-onestep comes .* assets/none"):
        lc.load_model("absent")
    with pytest.raises(lc.ModelError, match=r"needs 1000000.0 GiB of memory on cpu; \S+ are free"):
        lc.load_model("huge", device="cpu", dtype="bfloat16")
    entry, half = catalog()["sdxl-turbo"], torch.bfloat16
    assert (entry.memory, entry.memory_offloaded) == (9.0, 6.5)
    assert not plan_memory(entry, "cuda", half, 1, 10)
    assert plan_memory(entry, "cuda", half, 10, 8)
    assert not plan_memory(entry, "cpu", torch.float32, 18, None)
    with pytest.raises(lc.ModelError, match="needs 18.0 GiB of memory on cpu; 17.0 are free"):
        plan_memory(entry, "cpu", torch.float32, 17, None)
    with pytest.raises(lc.ModelError, match=r"9.0 GiB .* \(or 6.5, and 9.0 .* 8.0 are free\); 8.0"):
        plan_memory(entry, "cuda", half, 8, 8)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pipeline_that_lacks_tensors_is_refused_with_their_names(
    tmp_path: Path, part: str
) -> None:
    small_sd().save_pretrained(tmp_path)
    (file,) = (tmp_path / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("weight"))
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    ending = name.removeprefix("text_model.")
    with pytest.raises(lc.ModelError, match=rf"lacks 1 tensor .*{part}\.\S*{re.escape(ending)}"):
        lc.load_model(str(tmp_path), device="cpu")


def test_a_repository_with_files_in_half_precision_only_loads(
    small: dict[str, Path], tmp_path: Path
) -> None:
    assert not [f for f in small["xl"].rglob("*.safetensors") if ".fp16." not in f.name]
    model = lc.load_model(str(small["xl"]), device="cpu")
    assert isinstance(model, DiffusionModel)
    plain = StableDiffusionXLPipeline.from_pretrained(small["xl"], variant="fp16")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        wanted = getattr(plain, part).state_dict()
        found = model.module.get_submodule(part).state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    mixed = shutil.copytree(small["sd"], tmp_path / "mixed")
    (file,) = (mixed / "unet").glob("*.safetensors")
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert lc.load_model(str(mixed), device="cpu")
    next((mixed / "text_encoder").glob("*.safetensors")).unlink()
    with pytest.raises(lc.ModelError, match=r"text_encoder|model\.safetensors"):
        lc.load_model(str(mixed), device="cpu")


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        (["conditioner.embedders.0.x"], r"StableDiffusionXLPipeline\.from_single_file\(.*merged"),
        (["cond_stage_model.x"], r"StableDiffusionPipeline\.from_single_file\(.*merged"),
        (["lora_unet_x"], "as a folder or repository"),
    ],
)
def test_a_single_file_is_refused_with_what_helps(
    tmp_path: Path, keys: list[str], remedy: str
) -> None:
    file = tmp_path / "merged.safetensors"
    save_file({key: torch.zeros(1) for key in keys}, file)
    with pytest.raises(lc.ModelError, match=rf"merged.safetensors is one file.*{remedy}"):
        lc.load_model(str(file))
    with pytest.raises(lc.ModelError, match=r"other\.ckpt.* pickle"):
        lc.load_model(str(file.with_name("other.ckpt")))
    with pytest.raises(lc.ModelError, match=r"none\.safetensors is one file"):
        lc.load_model("user/repository/none.safetensors")
