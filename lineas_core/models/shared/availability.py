"""What a model requires of a machine before it runs: a GPU, a download, terms."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.models.shared.packages import converted_folder

# Maximum GiB of a language model that is fast enough on a CPU for interactive use.
CPU_MEMORY = 4.0
_INDEX = "diffusion_pytorch_model{}.safetensors"


def embedded(entry: CatalogEntry) -> bool:
    """Whether its weights come with the project."""
    return bool(entry.folder or (entry.packed and not entry.packed.terms))


def is_cached(entry: CatalogEntry) -> bool:
    """Whether the largest part of its weights is in the hub's cache; makes no request."""
    if unet := entry.unet:
        found = try_to_load_from_cache(unet.repo, unet.file, revision=unet.revision or None)
        return isinstance(found, str)
    if entry.kind == "language":
        files = ["model.safetensors", "model.safetensors.index.json"]
    else:
        name = _INDEX.format(f".{entry.variant}" if entry.variant else "")
        files = [f"unet/{name}", f"transformer/{name}.index.json"]
    return any(isinstance(try_to_load_from_cache(entry.hub, file), str) for file in files)


def asks_for(entry: CatalogEntry, *, gpu: bool, home: Path) -> str:
    """What is missing to run a model here, in words; "" if nothing is.

    Args:
        entry: the catalogue entry.
        gpu: whether the machine has a GPU.
        home: where converted models are kept.

    >>> from lineas_core.models.shared.catalog import catalog
    >>> asks_for(catalog()["emoji-onestep"], gpu=False, home=Path("nowhere"))
    ''
    """
    if embedded(entry) or converted_folder(entry, home).is_dir():
        return ""
    heavy = entry.kind == "diffusion" or entry.memory > CPU_MEMORY
    wanted = ["needs a GPU"] if heavy and not gpu else []
    if entry.packed and not is_cached(entry):
        wanted.append(f"{entry.license}: `lineas weights {entry.id}`")
    elif entry.download and not is_cached(entry):
        wanted.append(
            f"{entry.download:.0f} GB to download" if entry.download >= 1 else "1 GB to download"
        )
    return ", ".join(wanted)
