"""Preview frames of a training run: on disk, a file or two each, and as a film."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lineas_core.scenes.grid import FAINT, INK, PAPER
from lineas_core.system.files import write_whole

Sample = str | Image.Image

MOST_FRAMES = 60
MOST_BYTES = 4 * 2**20
SECONDS_A_FRAME = 0.25
SECONDS_AT_THE_END = 2.0
ACCENT = (99, 102, 241)
# Of a film, in pixels: a picture's side, a text's column, the head, the curve, the space between.
TILE, COLUMN, HEAD, CURVE, GAP = 224, 300, 28, 44, 10
LINES = 11
# Small pictures, whose every pixel is seen, are kept exactly.
LOSSLESS_UP_TO = 128

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """What a map in training does to one prompt, after one step.

    Attributes:
        step: steps done.
        loss: before that step.
        support: share of the coordinates that the map changes.
        unsteered: the untouched model's text or picture.
        steered: the same with the map at strength 1, on the same seed.
    """

    step: int
    loss: float
    support: float
    unsteered: Sample
    steered: Sample


def save_frame(folder: Path, frame: Frame) -> Path:
    """Write a frame, whole or not at all.

    Returns:
        Its JSON file, named by the step. Pictures lie beside it as WEBP files, the unsteered one
        once for all frames.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{frame.step:07d}"
    path = folder / f"{stem}.json"
    contents = {
        "step": frame.step,
        "loss": frame.loss,
        "support": frame.support,
        "unsteered": _keep(folder, "unsteered", frame.unsteered),
        "steered": _keep(folder, stem, frame.steered),
    }
    # Last: a frame whose JSON is there has its pictures.
    write_whole(path, json.dumps(contents, ensure_ascii=False).encode())
    return path


def frame_files(folder: Path) -> list[Path]:
    """JSON files of the frames in `folder`, first step first; none where there is no folder."""
    return sorted(folder.glob("[0-9]*.json"))


def load_frame(path: Path) -> Frame:
    """Read a frame by its JSON file.

    Raises:
        OSError: a file of it is missing or no picture.
        ValueError: the JSON file holds something else.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    try:
        return Frame(
            int(raw["step"]),
            float(raw["loss"]),
            float(raw["support"]),
            _read(path.parent, raw["unsteered"]),
            _read(path.parent, raw["steered"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a preview frame: {error!r}") from error


def load_frames(folder: Path) -> list[Frame]:
    """All frames in `folder` that can be read, first step first."""
    frames = []
    for path in frame_files(folder):
        try:
            frames.append(load_frame(path))
        except (OSError, ValueError):
            log.warning("%s is damaged and left out", path, exc_info=True)
    return frames


def draw_film(frames: Sequence[Frame], most_bytes: int = MOST_BYTES) -> bytes:
    """A looping GIF: unsteered beside steered, step after step, and the loss below.

    Args:
        frames: at least one; beyond 60, some at even distances are taken.
        most_bytes: that the file may have; fewer frames are taken until it does.
    """
    count = min(len(frames), MOST_FRAMES)
    while True:
        film = _encode(_spread(frames, count))
        if len(film) <= most_bytes or count == 1:
            return film
        count = max(1, min(count - 1, int(0.9 * count * most_bytes / len(film))))


def _spread(frames: Sequence[Frame], count: int) -> list[Frame]:
    """`count` of the frames at even distances, the last among them, and the first if count > 1."""
    if count == 1:
        return [frames[-1]]
    return [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]


def _encode(frames: Sequence[Frame]) -> bytes:
    # Pillow's own choice of colours looks no better here, and takes a hundred times as long.
    colours = Image.Quantize.FASTOCTREE
    pictures = [_draw(frames, i).quantize(method=colours) for i in range(len(frames))]
    seconds = [SECONDS_A_FRAME] * (len(frames) - 1) + [SECONDS_AT_THE_END]
    file = io.BytesIO()
    pictures[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=[round(1000 * s) for s in seconds],
        loop=0,
    )
    return file.getvalue()


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


def _keep(folder: Path, stem: str, sample: Sample) -> str | dict[str, str]:
    """What the JSON file holds of a sample: a text, or the name of the picture's file."""
    if isinstance(sample, str):
        return sample
    name = f"{stem}.webp"
    if stem != "unsteered" or not (folder / name).exists():
        file = io.BytesIO()
        exact = max(sample.size) <= LOSSLESS_UP_TO
        sample.convert("RGB").save(file, "WEBP", lossless=exact, quality=85)
        write_whole(folder / name, file.getvalue())
    return {"file": name}


def _read(folder: Path, kept: str | dict[str, str]) -> Sample:
    if isinstance(kept, str):
        return kept
    with Image.open(folder / kept["file"]) as file:
        image: Image.Image = file.convert("RGB")
    return image
