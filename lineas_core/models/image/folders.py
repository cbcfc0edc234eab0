"""Finds the files of an image model."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download

from lineas_core.errors import ModelError
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.system.paths import shipped

INDEX = "model_index.json"


def is_pipeline(source: str) -> bool:
    """Whether a folder, or a repository that can be reached, holds a diffusers pipeline."""
    if Path(source).is_dir():
        return (Path(source) / INDEX).is_file()
    try:
        hf_hub_download(source, INDEX)
    except (OSError, ValueError):
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
