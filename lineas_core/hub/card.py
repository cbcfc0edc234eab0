"""The model card (README.md) of a map on the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from lineas_core.errors import MapError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.shared.catalog import catalog
from lineas_core.system.files import sha256_of
from lineas_core.system.words import counted

FRONT = re.compile(r"---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)

# Prefixes of site names in diffusers pipelines; language models have none of them.
IMAGE_PARTS = ("unet.", "text_encoder", "transformer.transformer_blocks.", "transformer.single_")


def map_card(
    smap: SteeringMap,
    repo_id: str,
    *,
    file: str,
    sha256: str,
    title: str = "",
    license: str = "",
    about: str = "",
) -> str:
    """The card of a map: README.md in Markdown, with metadata as front matter.

    Args:
        smap: the map.
        repo_id: the repository it is pushed to, as USER/NAME.
        file: the map's file name in the repository.
        sha256: of the file, in hexadecimal.
        title: the heading; the map's own name by default.
        license: of the map, in the Hub's spelling, such as apache-2.0; unstated by default.
        about: an additional paragraph, in Markdown.
    """
    info = smap.info
    entry = catalog().get(info.model)
    image = any(site.startswith(IMAGE_PARTS) for site in smap.sites)
    metadata: dict[str, Any] = {
        "library_name": "lineas",
        "pipeline_tag": "text-to-image" if image else "text-generation",
        "tags": ["lineas", "activation-steering", "steering-map"],
        "lineas": {
            "file": file,
            "sha256": sha256,
            "digest": smap.digest(),
            "model": info.model,
            "method": info.method,
            "concept": info.concept,
        },
    }
    if license:
        metadata["license"] = license
    if entry and entry.hub:
        metadata["base_model"] = entry.hub
    ask = '["a lion"]' if image else '["Once upon a time"]'
    return "\n".join(
        [
            # JSON is valid YAML, and json.dumps escapes any text.
            *("---", *(f"{key}: {json.dumps(value)}" for key, value in metadata.items()), "---"),
            "",
            f"# {_line(title or info.name or repo_id)}",
            "",
            "A steering map: one scale and one shift per neuron, learned from a few dozen source "
            "and target prompts ([LinEAS](https://arxiv.org/abs/2503.10679)). At strength 0 the "
            "model is untouched, at 1 it is fully steered.",
            "",
            *((about, "") if about else ()),
            "| | |",
            "| --- | --- |",
            f"| model | {_line(info.model)} |",
            f"| method | {_line(info.method)} |",
            f"| steers towards | {_line(info.concept or 'not stated')} |",
            f"| prompts | {_line(info.name)}, hash {_line(info.prompt_hash or 'not known')} |",
            f"| support | {smap.support():.1%} of the neurons at "
            f"{counted(len(smap.sites), 'site')}"
            f"{', within bounds' if smap.bounds else ''} |",
            f"| licence | {_line(license or 'not stated')} |",
            f"| SHA-256 | {sha256} |",
            "",
            "```python",
            "import lineas_core as lc",
            "from lineas_core.hub.maps import install_map",
            "",
            f"model = lc.load_model({info.model!r})",
            f"smap, origin = install_map({repo_id!r})",
            f"print(model.generate({ask}, [(smap, 0.7)], seed=0))",
            "```",
            "",
            f"From a terminal: `lineas install {repo_id} -o {file}`",
            "",
        ]
    )


def read_card(card: str) -> dict[str, Any]:
    """The `lineas` section of a card's metadata; empty if the card does not describe a map."""
    front = FRONT.match(card)
    try:
        metadata = yaml.safe_load(front[1]) if front else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    named = metadata.get("lineas") if isinstance(metadata, dict) else None
    return named if isinstance(named, dict) else {}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        MapError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise MapError(f"Cannot read {path} ({error}). Check the path.") from error


def _line(text: str) -> str:
    """Put the text on one line and escape `|`, so that it fits into a table cell."""
    return " ".join(text.split()).replace("|", "\\|")
