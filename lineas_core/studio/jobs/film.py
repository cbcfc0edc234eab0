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
# In pixels: a picture's side, a text's column, the head, the curve, the space between.
TILE, COLUMN, HEAD, CURVE, GAP = 224, 300, 28, 44, 10
LINES = 11


def draw_training_film(frames: Sequence[Frame], max_bytes: int = MAX_BYTES) -> bytes:
    """A looping GIF: unsteered beside steered, step after step, and the loss below.

    Args:
        frames: at least one; beyond 60, some at even distances are taken.
        max_bytes: that the file may have; fewer frames are taken until it does.
    """
    count = min(len(frames), MAX_FRAMES)
    while True:
        film = _encode(_spread(frames, count))
        if len(film) <= max_bytes or count == 1:
            return film
        count = max(1, min(count - 1, int(0.9 * count * max_bytes / len(film))))


def _spread(frames: Sequence[Frame], count: int) -> list[Frame]:
    """`count` of the frames at even distances, the last among them, and the first if count > 1."""
    if count == 1:
        return [frames[-1]]
    return [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]


def _encode(frames: Sequence[Frame]) -> bytes:
    # Pillow's own choice of colours looks no better here, and takes a hundred times as long.
    colours = Image.Quantize.FASTOCTREE
    pictures = [_draw(frames, i).quantize(method=colours) for i in range(len(frames))]
    seconds = [SECONDS_PER_FRAME] * (len(frames) - 1) + [SECONDS_AT_THE_END]
    return looping_gif(pictures, seconds)


def _draw(frames: Sequence[Frame], index: int) -> Image.Image:
    """One picture of the film."""
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
            # Small pictures keep their pixels, as the page shows them.
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
    """The loss up to frame `index`, on axes that hold it up to the last."""
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
    """The text in lines that fit; words longer than a line are cut."""
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
