"""A result as HTML that carries the scene it was made by."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from lineas_core.studio.rack.rack import RackState


def with_scene(html: str, rack: Any, **made_by: Any) -> str:
    """A result that says what made it, for the page to pin.

    Args:
        html: the result.
        rack: as the page sent it.
        made_by: model, prompts, seed and, of a text, tokens.
    """
    scene = {**made_by, "rack": RackState.from_page(rack).to_page()}
    return f'<div data-made="{escape(json.dumps(scene), quote=True)}">{html}</div>'
