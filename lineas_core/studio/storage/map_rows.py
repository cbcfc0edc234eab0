"""Build the database row of a map from its metadata and from fields known elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.shared.catalog import catalog
from lineas_core.studio.storage.rows import MapRow

# Prefixes of site names in image pipelines.
_IMAGE_SITES = (
    "unet.",
    "text_encoder",
    "transformer.transformer_blocks.",
    "transformer.single_transformer_blocks.",
)


def row_of(smap: SteeringMap, map_id: str, owner: str, **known: Any) -> MapRow:
    """The row of a map; `known` are fields that its metadata lacks, or that override it."""
    info = smap.info
    prompts = known.get("prompts")
    seed = info.config.get("seed")
    told: dict[str, Any] = {
        "title": (prompts and prompts.title) or info.name or info.concept or "Map",
        "model": info.model,
        "modality": prompts.modality if prompts else _modality(smap),
        "digest": smap.digest(),
        "support": smap.support(),
        "method": info.method,
        "name": info.name,
        "concept": info.concept,
        "config": dict(info.config),
        "calibration": info.calibration,
        # An imported file may contain any seed; SQLite integers have 64 bits.
        "seed": seed if type(seed) is int and abs(seed) < 2**63 else None,
        "created": _made(smap),
    }
    return MapRow(id=map_id, owner=owner, **{**told, **known})


def _modality(smap: SteeringMap) -> Literal["text", "image"]:
    entry = catalog().get(smap.info.model)
    if entry is not None:
        return "image" if entry.kind == "diffusion" else "text"
    return "image" if any(site.startswith(_IMAGE_SITES) for site in smap.sites) else "text"


def _made(smap: SteeringMap) -> float:
    """Creation time of the map in seconds since 1970; 0.0 if its metadata has none."""
    try:
        return datetime.fromisoformat(smap.info.created).timestamp()
    except ValueError:
        return 0.0
