"""Pictures as data URLs, to embed them in HTML."""

from __future__ import annotations

import base64
import io

from PIL import Image

# Pictures up to this width in pixels are lossless: at that size every pixel is visible.
LOSSLESS_UP_TO = 128


def picture_url(image: Image.Image, max_pixels: int) -> str:
    """The picture as a data URL, at most `max_pixels` pixels wide and high."""
    shown = image.convert("RGB")
    shown.thumbnail((max_pixels, max_pixels))
    file = io.BytesIO()
    shown.save(file, "WEBP", lossless=shown.width <= LOSSLESS_UP_TO, quality=88, method=2)
    data = base64.b64encode(file.getvalue()).decode()
    return f"data:image/webp;base64,{data}"


def picture_in(url: str) -> Image.Image:
    """The picture in a data URL of `picture_url`."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
