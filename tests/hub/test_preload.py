"""What a Space downloads while it is built is what `load_model` reads, and no more."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

import lineas_core as lc
from lineas_core.hub.errors import HubError
from lineas_core.hub.preload import preload_items
from tests.helpers.hub import CLIENT_WARNING, Repository, SmallHub
from tests.helpers.pipelines import small_sd

pytestmark = pytest.mark.filterwarnings(CLIENT_WARNING)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def publish(hub: SmallHub, name: str, folder: Path) -> None:
    """Put a folder's files into a repository."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
    hub.repositories[name] = Repository("model", private=False)
    hub.repositories[name].commit(files)


def fetch(hub: SmallHub, item: str, folder: Path) -> set[str]:
    """Write the files of an item into a folder, as the Space's builder does into its cache."""
    name, files = item.split(" ")
    for file in files.split(","):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(hub.repositories[name].files[file])
    return set(files.split(","))


def test_a_language_model_loads_from_what_is_preloaded(
    hub: SmallHub, small_models: dict[str, Path], tiny: lc.LanguageModel, tmp_path: Path
) -> None:
    publish(hub, "Qwen/Qwen3-0.6B-Base", small_models["llama"])
    files = dict(hub.repositories["Qwen/Qwen3-0.6B-Base"].files)
    more = ("pytorch_model.bin", "onnx/model.onnx", "README.md", "consolidated.safetensors")
    hub.repositories["Qwen/Qwen3-0.6B-Base"].commit({**files, **dict.fromkeys(more, b"large")})
    [item] = preload_items(["smollm2", "qwen3-0.6b", "qwen3-0.6b"], endpoint=hub.address)
    assert fetch(hub, item, tmp_path / "model").isdisjoint(more)
    loaded = lc.load_model(str(tmp_path / "model"), device="cpu")
    assert loaded.generate(["ab"], seed=0) == tiny.generate(["ab"], seed=0)


def test_an_image_model_loads_from_what_is_preloaded(hub: SmallHub, tmp_path: Path) -> None:
    pipeline = small_sd()
    # As in the repository: weights in both precisions.
    pipeline.save_pretrained(tmp_path / "both")
    pipeline.save_pretrained(tmp_path / "both", variant="fp16")
    publish(hub, "stabilityai/sd-turbo", tmp_path / "both")
    repository = hub.repositories["stabilityai/sd-turbo"]
    more = ("unet/model.onnx", "vae_1_0/diffusion_pytorch_model.fp16.safetensors",
            "sd_turbo.safetensors", "unet/diffusion_pytorch_model.bin")  # fmt: skip
    repository.commit({**repository.files, **dict.fromkeys(more, b"large")})
    [item] = preload_items(["sd-turbo"], endpoint=hub.address)
    files = fetch(hub, item, tmp_path / "model")
    assert files.isdisjoint(more)
    weights = {file for file in files if file.endswith(".safetensors")}
    assert len(weights) == 3
    assert all(".fp16." in file for file in weights)
    model, whole = (lc.load_model(str(tmp_path / name), device="cpu") for name in ("model", "both"))
    [a], [b] = (m.generate(["a tiger"], seed=0) for m in (model, whole))
    assert a.tobytes() == b.tobytes()


def test_a_replaced_unet_is_preloaded_in_place_of_the_pipelines_own(
    hub: SmallHub, tmp_path: Path
) -> None:
    small_sd().save_pretrained(tmp_path / "sd", variant="fp16")
    publish(hub, "stabilityai/stable-diffusion-xl-base-1.0", tmp_path / "sd")
    asked = ["dmd2-sdxl-1step", "dmd2-sdxl-4step", "sdxl-lightning-1step"]
    base, *unets = preload_items(asked, endpoint=hub.address)
    assert "unet/config.json" in base
    assert "unet/diffusion_pytorch_model" not in base
    assert "vae/diffusion_pytorch_model.fp16.safetensors" in base
    commit = "be22767697a1f3ca656b73c776e15fa335c86c6c"
    assert unets == [
        f"tianweiy/DMD2 dmd2_sdxl_1step_unet_fp16.bin {commit}",
        f"tianweiy/DMD2 dmd2_sdxl_4step_unet_fp16.bin {commit}",
        "ByteDance/SDXL-Lightning sdxl_lightning_1step_unet_x0.safetensors",
    ]


def test_a_low_rank_update_is_preloaded_beside_its_pipeline(hub: SmallHub, tmp_path: Path) -> None:
    small_sd().save_pretrained(tmp_path / "sd")
    publish(hub, "Qwen/Qwen-Image", tmp_path / "sd")
    base, update = preload_items(["qwen-image-lightning-4step"], endpoint=hub.address)
    assert base.startswith("Qwen/Qwen-Image model_index.json,")
    file = "Qwen-Image-Lightning-4steps-V2.0.safetensors"
    assert update == f"lightx2v/Qwen-Image-Lightning {file}"


def test_what_cannot_be_preloaded_says_why(hub: SmallHub, small_models: dict[str, Path]) -> None:
    for name, reason in (("qwen", "not in the catalogue"), ("emoji-onestep", "comes with")):
        with pytest.raises(lc.ConfigError, match=f"preload is '{name}'.*{reason}.*sd-turbo"):
            preload_items([name], endpoint=hub.address)
    publish(hub, "google/gemma-2-2b", small_models["llama"])
    hub.repositories["google/gemma-2-2b"].gated = True
    with pytest.raises(lc.ConfigError, match="'gemma-2-2b'.*gated.*HF_TOKEN"):
        preload_items(["gemma-2-2b"], endpoint=hub.address)
    with pytest.raises(HubError, match="no openai-community/gpt2"):
        preload_items(["gpt2"], endpoint=hub.address)
    with pytest.raises(HubError, match="cannot be reached"):
        preload_items(["gpt2"], endpoint="http://127.0.0.1:9")
