"""Model cards (README.md) on the Hugging Face Hub: what maps and folded checkpoints have in common.

The metadata of a card is huggingface_hub's `ModelCardData`; its fields are explained at
https://huggingface.co/docs/hub/model-cards. What the Hub shows and filters by depends on them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from lineas_core.hub.errors import REPOSITORY, hub_errors
from lineas_core.hub.files import fetch
from lineas_core.models.shared.catalog import catalog

# Licences of the catalogue that the Hub has its own names for.
HUB_NAMES = {
    "Apache-2.0": "apache-2.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "Gemma Terms of Use": "gemma",
    "Llama 3.2 Community License": "llama3.2",
    "MIT": "mit",
    "OpenRAIL++": "openrail++",
}
# What is learned from a model under one of these may have another licence.
PERMISSIVE = ("apache-2.0", "bsd-2-clause", "bsd-3-clause", "mit")
CARD = "README.md"
# Of every card of ours; a map's card has that of maps too.
TAGS, MAP_TAG = ("lineas", "activation-steering"), "steering-map"
LICENSE_FIELDS = ("license", "license_name", "license_link")


def base_model(model: str) -> str:
    """The repository on the Hub of a model, by the name it was loaded by; "" if it has none.

    >>> base_model("smollm2"), base_model("google/gemma-3-4b-it"), base_model("emoji-onestep")
    ('HuggingFaceTB/SmolLM2-135M-Instruct', 'google/gemma-3-4b-it', '')
    """
    if entry := catalog().get(model):
        return entry.hub
    return model if REPOSITORY.fullmatch(model) and not Path(model).is_dir() else ""


def base_license(
    model: str, *, token: str | bool | None = None, cache_dir: Path | None = None
) -> dict[str, str]:
    """The licence of a model as fields of a card: license, license_name, license_link.

    Args:
        model: a short name of the catalogue; otherwise a folder or a repository on the Hub, whose
            own card is read.
        token: as in `fetch`.
        cache_dir: as in `fetch`.

    Returns:
        The fields; none if there is no such model, or it states no licence.

    Raises:
        HubError: the model's card cannot be read.
    """
    if entry := catalog().get(model):
        if known := HUB_NAMES.get(entry.license):
            return {"license": known}
        name = re.sub(r"[^a-z0-9.]+", "-", entry.license.lower()).strip("-")
        link = f"https://huggingface.co/{entry.hub}"
        return {"license": "other", "license_name": name, "license_link": link}
    path = Path(model) / CARD
    if base_model(model):
        with hub_errors(model):
            try:
                path, _ = fetch(model, CARD, token=token, cache_dir=cache_dir)
            except GatedRepoError:
                raise
            except (RepositoryNotFoundError, RemoteEntryNotFoundError):
                return {}
    metadata = read_metadata(path.read_text("utf-8", "replace")) if path.is_file() else {}
    return {name: str(metadata[name]) for name in LICENSE_FIELDS if metadata.get(name)}


def make_card(metadata: ModelCardData, text: str) -> ModelCard:
    """A card with this metadata as front matter and this text, in Markdown."""
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}")


def read_metadata(card: str) -> dict[str, Any]:
    """A card's metadata; empty if it has none, or it cannot be read."""
    try:
        data: Any = ModelCard(card, ignore_metadata_errors=True).data
        return dict(data.to_dict())
    except (yaml.YAMLError, RecursionError, TypeError, ValueError):
        return {}


def one_line(text: str) -> str:
    """Put the text on one line and escape `|`, so that it fits into a table cell or a heading."""
    return " ".join(text.split()).replace("|", "\\|")
