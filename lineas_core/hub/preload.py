"""Files of catalogue models that a Space downloads while it is built, not at their first use.

An item of `preload_from_hub` is "REPOSITORY", "REPOSITORY FILE,FILE" or "REPOSITORY FILES COMMIT":
https://huggingface.co/docs/hub/spaces-config-reference. Most repositories hold the same weights
several times, so the files are named: those that `load_model` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi

from lineas_core.errors import ConfigError
from lineas_core.hub.errors import hub_errors
from lineas_core.models.shared.catalog import CatalogEntry, catalog

SMOLLM2 = (
    "config.json,generation_config.json,model.safetensors,special_tokens_map.json,"
    "tokenizer.json,tokenizer_config.json"
)
INDEX = "model_index.json"
# Configurations, and files of tokenizers.
SMALL = (".json", ".txt", ".model", ".jinja")


def preload_smollm2() -> str:
    """The item of SmolLM2, which every Space has."""
    return f"{catalog()['smollm2'].hub} {SMOLLM2}"


def preload_items(
    names: Iterable[str], *, token: str | None = None, endpoint: str | None = None
) -> list[str]:
    """The items of other models, by what their repositories hold.

    Args:
        names: short names of the catalogue; SmolLM2 needs no item.
        token: of the user's login; anonymous by default.
        endpoint: URL of a hub other than huggingface.co.

    Raises:
        ConfigError: a name is not in the catalogue, comes with the app, or is of a gated model.
        HubError: the Hub cannot be reached, or has no such model.
    """
    api = HfApi(endpoint=endpoint, token=token or False)
    items: list[str] = []
    for entry in [_entry(name) for name in names if name != "smollm2"]:
        with hub_errors(entry.hub):
            items += _items(api, entry)
    # Several models of the catalogue share a base.
    return list(dict.fromkeys(items))


def _entry(name: str) -> CatalogEntry:
    on_hub = {key: entry for key, entry in catalog().items() if entry.hub}
    if name not in on_hub:
        reason = "comes with the app" if name in catalog() else "is not in the catalogue"
        raise ConfigError(f"preload is {name!r}, which {reason}. Choose of {', '.join(on_hub)}.")
    return on_hub[name]


def _items(api: HfApi, entry: CatalogEntry) -> list[str]:
    found = api.model_info(entry.hub)
    if found.gated:
        raise ConfigError(
            f"preload is {entry.id!r}, and {entry.hub} is gated: a Space preloads only what "
            "everyone may read. Leave it out, and give the Space a secret HF_TOKEN: the model is "
            "downloaded at its first use."
        )
    names = sorted(sibling.rfilename for sibling in found.siblings or ())
    if entry.kind == "language":
        files = [name for name in names if "/" not in name and _is_read(name)]
        return [f"{entry.hub} {','.join(files)}"]
    index = json.loads(Path(api.hf_hub_download(entry.hub, INDEX)).read_text("utf-8"))
    files = [INDEX, *_files_of_parts(names, entry, index)]
    items = [f"{entry.hub} {','.join(files)}"]
    if added := entry.added:
        items.append(f"{added.repo} {added.file} {added.revision}".strip())
    return items


def _is_read(name: str) -> bool:
    """Whether transformers reads a file of that name, in a language model's repository."""
    weights = name.startswith("model") and name.endswith(".safetensors")
    return weights or name.endswith(SMALL)


def _files_of_parts(names: list[str], entry: CatalogEntry, index: dict[str, object]) -> list[str]:
    """The files of a pipeline's parts, each in a folder of its name."""
    files = []
    for part, kind in index.items():
        if not isinstance(kind, list) or None in kind:
            continue
        inside = [name for name in names if name.rpartition("/")[0] == part]
        files += [name for name in inside if name.endswith(SMALL)]
        if part == "unet" and entry.unet:
            continue
        weights = [name for name in inside if name.endswith(".safetensors")]
        # In "model.fp16.safetensors" or "model.fp16-00001-of-00002.safetensors", fp16.
        variants = {name: name.split("/")[1].split(".")[1].split("-")[0] for name in weights}
        chosen = entry.variant or "safetensors"
        of_variant = [name for name in weights if variants[name] == chosen]
        files += of_variant or weights
    return files
