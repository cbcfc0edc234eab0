"""Descriptions of maps, as one line of text and as an HTML card."""

from __future__ import annotations

from datetime import datetime
from html import escape

from lineas_core.studio.storage.gallery import GALLERY
from lineas_core.studio.storage.store import MapRow


def label_of(row: MapRow) -> str:
    """Describe a map in one line, with its title."""
    return f"{row.title} · {line_of(row)}"


def line_of(row: MapRow) -> str:
    """Describe a map in one line, without its title."""
    tags = "".join(f" #{tag}" for tag in row.tags)
    return f"{row.model} · {row.method} · {made_on(row)}{tags}"


def made_on(row: MapRow) -> str:
    """When a map was added to the library; "shipped" for gallery maps."""
    if row.owner == GALLERY:
        return "shipped"
    return f"{datetime.fromtimestamp(row.created).astimezone():%d %b %H:%M}"


def card(row: MapRow) -> str:
    """Render the metadata of a map as an HTML card."""
    prompts = row.prompts
    figures = [
        ("model", row.model),
        ("method", row.method),
        ("concept", row.concept or "not said"),
        ("neurons changed", f"{row.support:.0%}"),
        ("recommended strength", "none" if row.recommended is None else f"{row.recommended:.2f}"),
        ("prompts", f"{len(prompts.source)} + {len(prompts.target)}" if prompts else "not kept"),
        ("digest", row.digest[:12]),
    ]
    cells = "".join(f"<div><dt>{n}</dt><dd>{escape(str(v))}</dd></div>" for n, v in figures)
    return f'<div class="ls-health"><strong>{escape(row.title)}</strong><dl>{cells}</dl></div>'
