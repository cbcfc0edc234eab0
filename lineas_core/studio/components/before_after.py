"""A picture before and after, with a bar between that the keyboard moves too."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from lineas_core.studio.components.data_urls import picture_url
from lineas_core.system.paths import packaged

# Wide enough for the frame on a screen of two pixels a point.
MAX_PIXELS = 680
SCRIPT = packaged("studio/components/before_after.js")


class BeforeAfter(gr.HTML):
    """Two pictures of one size on top of each other.

    Its value is a pair of images, or None. Gradio's own ImageSlider has a bar without a role,
    which no key moves.

    Args:
        label: of the bar, for screen readers.
        elem_id: of the component.
        render: whether it is on the page; Gradio makes others, for each `gr.skip()` and its docs.
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
        """The two images as what the page shows."""
        if value is None:
            return None
        before, after = (_url(image) for image in value)
        return {"before": before, "after": after}


def _url(image: Image.Image) -> str:
    return picture_url(image, MAX_PIXELS)
