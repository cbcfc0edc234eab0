"""Preview frames of a training run as a looping GIF."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from lineas_core.scenes.drawing import FAINT, INK, PAPER, looping_gif
from lineas_core.studio.jobs.frames import LOSSLESS_UP_TO, Frame

MAX_FRAMES = 60
MAX_BYTES = 4 * 2**20
SECONDS_PER_FRAME = 0.25
SECONDS_AT_THE_END = 2.0
ACCENT = (99, 102, 241)
# In pixels: side of an image, width of a text column, height of header and curve, gap.
TILE, COLUMN, HEAD, CURVE, GAP = 224, 300, 28, 44, 10
LINES = 11


def draw_training_film(frames: Sequence[Frame], max_bytes: int = MAX_BYTES) -> bytes:
    """A looping GIF of the unsteered beside the steered sample, with the loss curve below.

    Args:
        frames: at least one; if there are more than 60, 60 evenly spaced ones are used.
        max_bytes: maximum size of the file; frames are dropped until it fits, or one is left.
    """
    count = min(len(frames), MAX_FRAMES)
    while True:
        film = _encode(_spread(frames, count))
        if len(film) <= max_bytes or count == 1:
            return film
        count = max(1, min(count - 1, int(0.9 * count * max_bytes / len(film))))


def _spread(frames: Sequence[Frame], count: int) -> list[Frame]:
    """`count` evenly spaced frames, including the last one, and the first one if count > 1."""
    if count == 1:
        return [frames[-1]]
    return [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]


def _encode(frames: Sequence[Frame]) -> bytes:
    # Pillow's default quantizer looks no better here, and takes a hundred times as long.
    colours = Image.Quantize.FASTOCTREE
    pictures = [_draw(frames, i).quantize(method=colours) for i in range(len(frames))]
    seconds = [SECONDS_PER_FRAME] * (len(frames) - 1) + [SECONDS_AT_THE_END]
    return looping_gif(pictures, seconds)


def _draw(frames: Sequence[Frame], index: int) -> Image.Image:
    """Draw the picture of frame `index`."""
    frame = frames[index]
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    pictured = isinstance(frame.steered, Image.Image)
    width, height = (TILE, TILE) if pictured else (COLUMN, LINES * 20)
    sheet = Image.new("RGB", (2 * width + 3 * GAP, HEAD + height + CURVE + 2 * GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, (title, sample) in enumerate(
        (("untouched", frame.unsteered), (f"step {frame.step}", frame.steered))
    ):
        left = GAP + column * (width + GAP)
        pen.text((left, HEAD / 2), title, INK if column else FAINT, font, anchor="lm")
        if isinstance(sample, Image.Image):
            # Scale small images without interpolation, as the page does.
            way = (
                Image.Resampling.NEAREST
                if sample.width <= LOSSLESS_UP_TO
                else Image.Resampling.LANCZOS
            )
            sheet.paste(sample.convert("RGB").resize((width, height), way), (left, HEAD))
        else:
            text = _wrapped(sample, pen, font, width)
            pen.multiline_text((left, HEAD), text, INK if column else FAINT, font, spacing=5)
    top = HEAD + height + GAP
    pen.text((GAP, top + CURVE / 2), f"loss\n{frame.loss:.3g}", FAINT, small, anchor="lm")
    _draw_curve(pen, frames, index, (GAP + 56, top, sheet.width - GAP, top + CURVE))
    return sheet


def _draw_curve(
    pen: ImageDraw.ImageDraw, frames: Sequence[Frame], index: int, box: tuple[int, int, int, int]
) -> None:
    """Draw the loss up to frame `index`, on axes scaled to all frames."""
    left, top, right, bottom = box
    pen.line((left, bottom, right, bottom), FAINT)
    first, last = frames[0].step, frames[-1].step
    most = max((f.loss for f in frames), default=0) or 1.0
    points = [
        (
            left + (right - left) * (f.step - first) / max(1, last - first),
            bottom - (bottom - top) * f.loss / most,
        )
        for f in frames[: index + 1]
    ]
    if len(points) > 1:
        pen.line(points, ACCENT, width=2)
    x, y = points[-1]
    pen.ellipse((x - 3, y - 3, x + 3, y + 3), ACCENT)


def _wrapped(
    text: str,
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    """Text wrapped to `width` pixels and cut to `LINES` lines; longer words are broken."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if pen.textlength(joined, font) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and pen.textlength(lines[-1] + letter, font) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], "…"])
