"""The image models of the catalogue with small weights, loaded as the catalogue loads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lineas_core as lc
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.shared.catalog import CatalogEntry, catalog
from tests.helpers.pipelines import (
    KINDS,
    SIZES,
    TOKENS,
    save_small_pipelines,
    small_unet_xl,
)

RANK = 3


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_small_pipelines(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="module")
def entries(small: dict[str, Path]) -> dict[str, CatalogEntry]:
    """The catalogue's image models, with small weights instead of the large ones."""
    checkpoints = small["xl"].parent / "checkpoints"
    checkpoints.mkdir()
    found: dict[str, CatalogEntry] = {}
    for number, (name, kind) in enumerate(KINDS.items(), start=1):
        entry = catalog()[name]
        changes: dict[str, Any] = {"hub": str(small[kind]), "folder": "", "size": SIZES[kind]}
        changes |= {"memory": 0.1, "dtype": "float32", "tiny_vae": str(small["taesd"])}
        if kind != "xl":
            changes["variant"] = ""
        if entry.tokens:
            changes["tokens"] = TOKENS[kind]
        if entry.unet:
            changes["unet"] = replace(entry.unet, repo=str(checkpoints))
            torch.manual_seed(number)
            half = {k: v.half() for k, v in small_unet_xl().state_dict().items()}
            binary = entry.unet.file.endswith(".bin")
            (torch.save if binary else save_file)(half, checkpoints / entry.unet.file)
        if entry.lora:
            changes["lora"] = replace(entry.lora, repo=str(checkpoints))
            save_lora(small[kind] / "transformer", checkpoints / entry.lora.file)
        found[name] = replace(entry, **changes)
    return found


def save_lora(transformer: Path, file: Path) -> None:
    """A low-rank update of every weight in its blocks, named as Qwen-Image-Lightning's are."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(transformer / "diffusion_pytorch_model.safetensors").items():
        if name.startswith("transformer_blocks") and weight.ndim == 2:
            layer, (to, of) = name.removesuffix(".weight"), weight.shape
            tensors[f"{layer}.lora_down.weight"] = torch.randn(RANK, of, generator=generator)
            tensors[f"{layer}.lora_up.weight"] = torch.randn(to, RANK, generator=generator) / 20
            tensors[f"{layer}.alpha"] = torch.tensor(1.0)
    save_file(tensors, file)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: networks this small are many times slower with thread synchronisation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def load(entries: dict[str, CatalogEntry], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("lineas_core.models.load.catalog", lambda: {**catalog(), **entries})

    def load_model(name: str, **settings: Any) -> DiffusionModel:
        model = lc.load_model(name, device="cpu", **settings)
        assert isinstance(model, DiffusionModel)
        return model

    return load_model


@pytest.fixture
def emoji(load: Any) -> DiffusionModel:
    return load("emoji-onestep")
