"""HTML of a result, tagged with the scene that produced it."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from lineas_core.studio.rack.rack import RackState


def with_scene(html: str, rack: Any, **made_by: Any) -> str:
    """The HTML of a result with its scene as an attribute, which the page stores in a pin.

    Args:
        html: the result.
        rack: value of the rack, as the page sent it.
        made_by: model, prompts, seed and, for a text, tokens.
    """
    scene = {**made_by, "rack": RackState.from_page(rack).to_page()}
    return f'<div data-made="{escape(json.dumps(scene), quote=True)}">{html}</div>'
