"""The revision of a model's weights, so that a result can be reproduced with the same ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from lineas_core.models.language.model import LanguageModel
from lineas_core.models.load import Model
from lineas_core.system.files import sha256_of

WEIGHTS = ("*.safetensors", "*.bin")


def model_revision(model: Model) -> str:
    """The revision of every source of the weights, joined by "+".

    `hub:<repository>@<commit>` for the Hugging Face Hub; `weights:<hash>` for a folder, including
    embedded and converted models: the first 16 hex digits of the SHA-256 over the names and
    SHA-256 sums of its weight files. Sources that are not found are skipped, so the result may be
    empty.
    """
    entry = model.entry
    if isinstance(model, LanguageModel):
        places = [(str(model.module.config.name_or_path), "config.json", "")]
    else:
        places = [(str(model.pipeline.config.get("_name_or_path", "")), "model_index.json", "")]
    if entry and entry.added:
        places.append((entry.added.repo, entry.added.file, entry.added.revision))
    return "+".join(filter(None, (_revision(*place) for place in places)))


def _revision(place: str, file: str, revision: str) -> str:
    folder = Path(place)
    if folder.is_dir():
        if folder.parent.name == "snapshots":
            repository = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
            return f"hub:{repository}@{folder.name}"
        return f"weights:{_fingerprint(folder)}"
    if place.count("/") != 1:
        return ""
    cached = try_to_load_from_cache(place, file, revision=revision or None)
    if not isinstance(cached, str):
        return ""
    inside = Path(cached).parts
    return f"hub:{place}@{inside[inside.index('snapshots') + 1]}"


def _fingerprint(folder: Path) -> str:
    files = sorted({path for kind in WEIGHTS for path in folder.rglob(kind)})
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    return whole.hexdigest()[:16]
