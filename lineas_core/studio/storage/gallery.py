"""The gallery: maps that ship with the app, which every visitor may use and none may change."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineas_core.errors import LineasError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.storage.map_rows import row_of
from lineas_core.studio.storage.rows import MapRow, calibration_points, health_from_json

GALLERY = "gallery"
INDEX = "index.json"
COPIED = ("title", "concept", "recommended")

log = logging.getLogger(__name__)


def load_gallery(folder: Path | None) -> dict[str, MapRow]:
    """Id -> row of the maps that `index.json` in `folder` lists, in its order.

    Entries that cannot be read are skipped and logged.

    Args:
        folder: contains `<id>.safetensors` for every map; None or a missing folder is an empty
            gallery.
    """
    if folder is None or not (folder / INDEX).is_file():
        return {}
    rows = {}
    try:
        for entry in json.loads((folder / INDEX).read_text(encoding="utf-8")):
            try:
                row = _row(folder, entry)
            except (LineasError, KeyError, TypeError, ValueError):
                log.exception("an entry of the gallery %s is left out: %.200r", folder, entry)
            else:
                rows[row.id] = row
    except (OSError, ValueError, TypeError, RecursionError):
        log.exception("the gallery %s cannot be read", folder)
    return rows


def _row(folder: Path, entry: Mapping[str, Any]) -> MapRow:
    known: dict[str, Any] = {name: entry[name] for name in COPIED if entry.get(name) is not None}
    if entry.get("calibration"):
        known["calibration"] = calibration_points(entry["calibration"])
    known["tags"] = tuple(entry.get("tags", ()))
    if entry.get("prompts"):
        known["prompts"] = PromptSet.load(entry["prompts"])
    if entry.get("health"):
        known["health"] = health_from_json(json.dumps(entry["health"]))
    smap = SteeringMap.load(folder / f"{entry['id']}.safetensors")
    return row_of(smap, entry["id"], GALLERY, **known)
