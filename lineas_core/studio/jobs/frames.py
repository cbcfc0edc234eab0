"""Preview frames of a training run, on disk: a JSON file each, and a picture or two."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lineas_core.system.files import write_whole

Sample = str | Image.Image

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
