"""The list of maps found on the Hugging Face Hub: the page component, and the updates to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lineas_core.hub.search import MAX_FOUND, FoundMap
from lineas_core.studio.components.scripts import script
from lineas_core.system.words import counted

# Sent when an install has ended, well or not.
DONE = """() => ({ from: "server", done: true })"""


def build_hub_list(elem_id: str) -> gr.HTML:
    """The list component; its value is JSON: a patch from the server, or a request from the page.

    `select`: install the map of a repository (`repo`).
    """
    return gr.HTML(
        {"from": "server"},
        html_template='<div class="map-list hub-list"></div>',
        js_on_load=script("tabs/library/hub_list.js"),
        apply_default_css=False,
        elem_id=elem_id,
    )


def found_patch(model: str, found: Sequence[FoundMap]) -> dict[str, Any]:
    """An update that lists the maps found for a model, or says that there are none."""
    what = f"for {model}" if model else "of any model"
    if not found:
        words = f"The Hub has no map {what}. Choose another model, or push the first one."
    elif len(found) == MAX_FOUND:
        words = f"The {MAX_FOUND} most downloaded maps {what}."
    else:
        words = f"{counted(len(found), 'map')} {what}."
    return {
        "from": "server",
        "words": words,
        "rows": [{"repo": one.repo, "said": line_of(one)} for one in found],
    }


def line_of(found: FoundMap) -> str:
    """Describe a map on the Hub in one line, without its repository's name."""
    parts = (
        f"by {found.repo.partition('/')[0]}",
        found.license or "no licence stated",
        counted(found.downloads, "download"),
        "private" if found.private else "",
        "terms to accept first" if found.gated else "",
    )
    return " · ".join(filter(None, parts))
