"""Whether a model's weights are here already: the file that is the largest part of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineas_core.models.shared.availability import asks_for, is_cached
from lineas_core.models.shared.catalog import catalog
from tests.helpers.hub_cache import put_in_cache

INDEX = "diffusion_pytorch_model"
DMD2 = "be22767697a1f3ca656b73c776e15fa335c86c6c"
LIGHTNING = "Qwen-Image-Lightning-4steps-V2.0.safetensors"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "repo", "revision", "file"),
    [
        ("gpt2", "openai-community/gpt2", "main", "model.safetensors"),
        ("qwen3-8b", "Qwen/Qwen3-8B-Base", "main", "model.safetensors.index.json"),
        ("sdxl-turbo", "stabilityai/sdxl-turbo", "main", f"unet/{INDEX}.fp16.safetensors"),
        ("qwen-image-lightning-4step", "Qwen/Qwen-Image", "main",
         f"transformer/{INDEX}.safetensors.index.json"),
        ("dmd2-sdxl-1step", "tianweiy/DMD2", DMD2, "dmd2_sdxl_1step_unet_fp16.bin"),
    ],
)  # fmt: skip
def test_what_was_fetched_is_not_to_be_downloaded(
    name: str, repo: str, revision: str, file: str, cache: Path
) -> None:
    entry = catalog()[name]
    assert entry.hub == repo or entry.unet
    assert not is_cached(entry)
    assert "to download" in asks_for(entry, gpu=True, home=cache)
    put_in_cache(cache, repo, revision, file)
    assert is_cached(entry)
    assert asks_for(entry, gpu=True, home=cache) == ""


@pytest.mark.parametrize(
    ("name", "repo", "revision", "file"),
    [
        # The update, 1.7 GB, without the model of 57.7.
        ("qwen-image-lightning-4step", "lightx2v/Qwen-Image-Lightning", "main", LIGHTNING),
        # The pipeline's own UNet, which is not read, and another commit of the one that is.
        ("dmd2-sdxl-1step", "stabilityai/stable-diffusion-xl-base-1.0", "main",
         f"unet/{INDEX}.fp16.safetensors"),
        ("dmd2-sdxl-1step", "tianweiy/DMD2", "main", "dmd2_sdxl_1step_unet_fp16.bin"),
    ],
)  # fmt: skip
def test_a_small_or_another_part_is_not_enough(
    name: str, repo: str, revision: str, file: str, cache: Path
) -> None:
    put_in_cache(cache, repo, revision, file)
    assert not is_cached(catalog()[name])
