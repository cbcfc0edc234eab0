"""A before/after picture slider that also works with the keyboard."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from lineas_core.studio.components.data_urls import picture_url
from lineas_core.system.paths import packaged

# Fills the frame on a display with two device pixels per CSS pixel.
MAX_PIXELS = 680
SCRIPT = packaged("studio/components/before_after.js")


class BeforeAfter(gr.HTML):
    """Two overlaid pictures of the same size, divided by a movable bar.

    Its value is a pair of images, or None. It replaces Gradio's ImageSlider, whose bar has no ARIA
    role and cannot be moved with the keyboard.

    Args:
        label: accessible name of the bar, for screen readers.
        elem_id: HTML id of the component.
        render: whether to place it on the page; Gradio also creates instances that are not placed,
            for each `gr.skip()` and for its docs.
    """

    def __init__(
        self, label: str = "Before and after", elem_id: str | None = None, *, render: bool = True
    ) -> None:
        super().__init__(
            None,
            html_template=(
                '<div class="ls-before-after" hidden><img alt="Untouched"><img alt="Steered">'
                '<input type="range" min="0" max="100" value="50" '
                f'aria-label="{escape(label, quote=True)}"></div>'
            ),
            js_on_load=SCRIPT.read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id=elem_id,
            render=render,
        )

    def postprocess(self, value: Any) -> Any:
        """The two images as data URLs, as the HTML template expects them."""
        if value is None:
            return None
        before, after = (_url(image) for image in value)
        return {"before": before, "after": after}


def _url(image: Image.Image) -> str:
    return picture_url(image, MAX_PIXELS)
