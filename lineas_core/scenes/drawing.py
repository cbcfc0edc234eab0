"""Image grids as one picture, or as a film over strengths."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from lineas_core.models.image.model import ImageGrid
from lineas_core.scenes.scores import GridScores

INK, PAPER, FAINT = (30, 41, 59), (255, 255, 255), (100, 116, 139)
SECONDS_A_FRAME = 0.6


def draw_grid(grid: ImageGrid, scores: GridScores | None = None, cell: int = 160) -> Image.Image:
    """Draw the grid as one picture: prompts at the left, strengths on top, scores below cells."""
    label, head, foot, gap = 190, 40, 24 if scores else 0, 10
    width = label + len(grid.strengths) * (cell + gap) + gap
    height = head + len(grid.prompts) * (cell + foot + gap) + gap
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for column, strength in enumerate(grid.strengths):
        left = label + column * (cell + gap)
        pen.text((left + cell / 2, head / 2), f"strength {strength:g}", INK, font, anchor="mm")
        for row, images in enumerate(grid.images):
            top = head + row * (cell + foot + gap)
            sheet.paste(_scaled(images[column], cell), (left, top))
            if scores:
                text = f"CLIP {scores.clip[row][column]:.2f}   IMG {scores.image[row][column]:.2f}"
                place = (left + cell / 2, top + cell + foot / 2)
                pen.text(place, text, FAINT, small, anchor="mm")
    for row, prompt in enumerate(grid.prompts):
        middle = head + row * (cell + foot + gap) + cell / 2
        text = _wrapped(prompt, pen, font, label - 2 * gap)
        pen.multiline_text((gap, middle), text, INK, font, anchor="lm", spacing=5)
    return sheet


def draw_film(grid: ImageGrid, cell: int = 160) -> bytes:
    """A looping GIF that sweeps the strengths up and down, with the prompts side by side."""
    frames = []
    for column, strength in enumerate(grid.strengths):
        frame = Image.new("RGB", (len(grid.prompts) * cell, cell + 28), PAPER)
        for row, images in enumerate(grid.images):
            frame.paste(_scaled(images[column], cell), (row * cell, 0))
        ImageDraw.Draw(frame).text(
            (frame.width / 2, cell + 14),
            f"strength {strength:g}",
            INK,
            ImageFont.load_default(15),
            anchor="mm",
        )
        frames.append(frame)
    there_and_back = frames + frames[-2:0:-1]
    return looping_gif(there_and_back, [SECONDS_A_FRAME] * len(there_and_back))


def looping_gif(pictures: Sequence[Image.Image], seconds: Sequence[float]) -> bytes:
    """A GIF that shows each picture for its seconds, again and again."""
    file = io.BytesIO()
    pictures[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=[round(1000 * each) for each in seconds],
        loop=0,
    )
    return file.getvalue()


def _scaled(image: Image.Image, side: int) -> Image.Image:
    return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def _wrapped(
    text: str,
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    """Wrap the text to the width, in at most five lines."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or pen.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines if len(lines) <= 5 else [*lines[:4], f"{lines[4]} …"])
