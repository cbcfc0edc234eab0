"""Finds the files of an image model."""

from __future__ import annotations

from pathlib import Path

import httpx
from huggingface_hub import hf_hub_download
from safetensors import safe_open

from lineas_core.errors import ModelError
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.system.paths import shipped

INDEX = "model_index.json"
# What is in the tensors' names of a single file, and the pipeline that reads it.
SINGLE_FILES = (
    ("conditioner.embedders", "StableDiffusionXLPipeline"),
    ("cond_stage_model", "StableDiffusionPipeline"),
)


def is_pipeline(source: str) -> bool:
    """Whether a folder, or a repository that can be reached, holds a diffusers pipeline."""
    if Path(source).is_dir():
        return (Path(source) / INDEX).is_file()
    try:
        hf_hub_download(source, INDEX)
    except (OSError, ValueError, httpx.HTTPError):
        return False
    return True


def embedded_folder(entry: CatalogEntry) -> str:
    """The folder inside this project with the weights of an entry that has a `folder`.

    Raises:
        ModelError: they are not there.
    """
    folder = shipped(entry.folder)
    if not (folder / INDEX).is_file():
        raise ModelError(
            f"{entry.id} comes with this project in {entry.folder}, and that folder holds no "
            f"{INDEX}. Check out a version of the project that has it, or choose another model."
        )
    return str(folder)


def refuse_single_file(name: str) -> None:
    """Refuse one file that holds a whole model, and say what makes a folder of it.

    Raises:
        ModelError: the name is that of such a file.
    """
    if Path(name).is_dir():
        return
    if name.endswith((".ckpt", ".pt", ".pth", ".bin")):
        raise ModelError(
            f"{name} is a pickle, which can run code, and holds no configuration. Take the model "
            "as a folder or repository of diffusers or transformers, in safetensors."
        )
    if not name.endswith(".safetensors"):
        return
    kind = _pipeline_in(Path(name))
    remedy = "Take the model as a folder or repository of diffusers or transformers."
    if kind:
        remedy = (
            f"Make one of it, once: diffusers.{kind}.from_single_file({name!r}).save_pretrained("
            "'FOLDER'), which reads the configuration from the Hugging Face Hub. Load that folder."
        )
    raise ModelError(f"{name} is one file, without the configuration that a folder has. {remedy}")


def _pipeline_in(file: Path) -> str:
    """The pipeline that reads a single file; empty if there is no such file, or none reads it."""
    if not file.is_file():
        return ""
    with safe_open(file, "pt") as weights:
        keys = tuple(weights.keys())
    return next((kind for start, kind in SINGLE_FILES if any(start in key for key in keys)), "")
