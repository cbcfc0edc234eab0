"""The list of maps in the library: the page's component, what it is told, and how a map looks."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import gradio as gr

from lineas_core.models.load import as_image_model, as_language_model
from lineas_core.studio.app import Studio
from lineas_core.studio.components.scripts import script
from lineas_core.studio.rack.mix import mix_of
from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.storage.gallery import GALLERY
from lineas_core.studio.storage.store import MapRow
from lineas_core.system.files import write_whole

# What every map is shown on: one prompt of each kind and one seed, at the map's own strength.
PICTURED, CONTINUED, SEED = "a house", "Once upon a time", 0
SIDE, TOKENS = 96, 12

log = logging.getLogger(__name__)


def build_map_list(elem_id: str) -> gr.HTML:
    """The component. Its value is a JSON object: a patch from the server, or what is asked of it.

    `input`: other maps are ticked (`chosen`). `select`, `delete`, `undo`: a map (`id`) is to be put
    on the rack, deleted, brought back.
    """
    return gr.HTML(
        list_patch(),
        html_template='<div class="map-list"></div>',
        js_on_load=script("tabs/library/map_list.js"),
        apply_default_css=False,
        elem_id=elem_id,
        min_height=120,
    )


def list_patch(
    *,
    rows: Sequence[MapRow] | None = None,
    chosen: Sequence[str] | None = None,
    glances: Mapping[str, Mapping[str, str]] | None = None,
    gone: Sequence[MapRow] = (),
    back: Sequence[str] = (),
) -> dict[str, Any]:
    """News for the list; what is left out stays as it is there.

    Args:
        rows: all that is listed, in order.
        chosen: ids that are ticked.
        glances: id -> how the map looks (`Glances`).
        gone: maps that were deleted just now; their places offer to undo that.
        back: ids of maps that have come back.
    """
    news: dict[str, Any] = {"from": "server"}
    if rows is not None:
        news["rows"] = [
            {
                "id": row.id,
                "title": row.title,
                "concept": row.concept,
                "said": said_of(row),
                "own": row.owner != GALLERY,
            }
            for row in rows
        ]
    if chosen is not None:
        news["chosen"] = list(chosen)
    if glances:
        news["glances"] = {map_id: dict(glance) for map_id, glance in glances.items()}
    if gone:
        news["gone"] = [{"id": row.id, "title": row.title} for row in gone]
    if back:
        news["back"] = list(back)
    return news


def said_of(row: MapRow) -> str:
    """A map in one line, without its title."""
    tags = "".join(f" #{tag}" for tag in row.tags)
    return f"{row.model} · {row.method} · {made_on(row)}{tags}"


def made_on(row: MapRow) -> str:
    """When a map came into the library, or that it ships with the app."""
    if row.owner == GALLERY:
        return "shipped"
    return f"{datetime.fromtimestamp(row.created).astimezone():%d %b %H:%M}"


def first_strength(row: MapRow) -> float:
    """The strength that a map is put on at."""
    return 1.0 if row.recommended is None else row.recommended


class Glances:
    """How each map looks: a small picture, or a few words that it makes a model write.

    Made once, when its model is in memory anyway, and kept in a file beside the map.

    Args:
        studio: the models and maps.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._make = studio.on_gpu(self._make_here)

    def kept(self, row: MapRow) -> dict[str, str] | None:
        """{"image": address} or {"text": words}; None where there is none of this very map."""
        try:
            kept = json.loads(self._studio.library.glance(row.id).read_text(encoding="utf-8"))
            if kept["of"] != [row.digest, first_strength(row)]:
                return None
            kind = "image" if row.modality == "image" else "text"
            return {kind: str(kept[kind])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError):
            log.warning("the glance of map %s cannot be read and is made anew", row.id)
            return None

    def can_make(self, row: MapRow) -> bool:
        """Whether the map's model is in memory: no other is to make room for a glance."""
        return self._studio.shelf.has(row.model)

    def make(self, owner: str, row: MapRow) -> dict[str, str]:
        """Make a map's glance, and keep it if the disk takes it.

        Raises:
            LineasError: the map cannot be put on its model here.
        """
        self._studio.turns.give_way()
        rack = RackState((Slot(row.id, True, first_strength(row)),), modality=row.modality)
        mix = mix_of(
            rack, self._studio.library, owner, row.model, guarded=self._studio.settings.demo
        )
        kind, made = self._make(row.model, row.modality, mix.steer)
        contents = {"of": [row.digest, first_strength(row)], kind: made}
        try:
            write_whole(self._studio.library.glance(row.id), json.dumps(contents))
        except OSError:
            log.warning("the glance of map %s cannot be kept", row.id, exc_info=True)
        return {kind: made}

    def _make_here(self, name: str, modality: str, steer: Any) -> tuple[str, str]:
        loaded = self._studio.shelf.get(name)
        if modality == "text":
            model = as_language_model(loaded)
            [words] = model.generate([CONTINUED], steer, seed=SEED, max_new_tokens=TOKENS)
            return "text", f"{CONTINUED}{words.rstrip()} …"
        [picture] = as_image_model(loaded).generate([PICTURED], steer, seed=SEED)
        picture = picture.convert("RGB")
        picture.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        picture.save(file, "WEBP", lossless=True)
        return "image", f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def put_on(rack: RackState, row: MapRow) -> RackState:
    """The rack with the map on: where it is, or at the end."""
    slots = tuple(replace(s, on=True) if s.id == row.id else s for s in rack.slots)
    if all(slot.id != row.id for slot in slots):
        slots += (Slot(row.id, True, first_strength(row)),)
    return replace(rack, slots=slots, modality=row.modality, solo="")
