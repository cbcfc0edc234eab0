"""The list of maps in the library: the page component, and the updates sent to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from lineas_core.errors import ConfigError
from lineas_core.studio.components.scripts import script
from lineas_core.studio.storage.gallery import GALLERY
from lineas_core.studio.storage.store import MapRow
from lineas_core.studio.views.map_cards import line_of


def build_map_list(elem_id: str) -> gr.HTML:
    """The list component; its value is JSON: a patch from the server, or a request from the page.

    `input`: the ticked maps changed (`chosen`). `select`, `delete`, `undo`: put a map (`id`) on the
    rack, delete it, restore it.
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
    """An update for the list; it leaves unchanged whatever is omitted.

    Args:
        rows: all maps to list, in order.
        chosen: ids of the ticked maps.
        glances: map id -> its glance, which shows how the map looks (`Glances`).
        gone: maps that were just deleted; an undo button is shown in place of each.
        back: ids of maps that were restored.
    """
    news: dict[str, Any] = {"from": "server"}
    if rows is not None:
        news["rows"] = [
            {
                "id": row.id,
                "title": row.title,
                "concept": row.concept,
                "said": line_of(row),
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


def first_of(chosen: Sequence[str] | None) -> str:
    """The id of the first chosen map.

    Raises:
        ConfigError: none is chosen.
    """
    if not chosen:
        raise ConfigError("No map is chosen; tick one in the list first.")
    return chosen[0]
