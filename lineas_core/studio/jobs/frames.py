"""Preview frames of a training run on disk: a JSON file each, and WEBP files of the images."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lineas_core.system.files import write_whole

Sample = str | Image.Image

# Images up to this size in pixels are stored losslessly, since their single pixels are visible.
LOSSLESS_UP_TO = 128

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One prompt's output with and without the map in training, after one step.

    Attributes:
        step: number of steps done.
        loss: the loss before that step.
        support: share of the coordinates that the map changes.
        unsteered: the untouched model's text or image.
        steered: the same with the map at strength 1, from the same seed.
    """

    step: int
    loss: float
    support: float
    unsteered: Sample
    steered: Sample


def save_frame(folder: Path, frame: Frame) -> Path:
    """Write a frame atomically.

    Returns:
        Path of its JSON file, named after the step. Images are WEBP files beside it; the unsteered
        one is written once for all frames.

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
    # Write the JSON last, so that a frame with a JSON file has its images.
    write_whole(path, json.dumps(contents, ensure_ascii=False).encode())
    return path


def frame_files(folder: Path) -> list[Path]:
    """JSON files of the frames in `folder`, sorted by step; empty if there is no such folder."""
    return sorted(folder.glob("[0-9]*.json"))


def load_frame(path: Path) -> Frame:
    """Read a frame from its JSON file.

    Raises:
        OSError: one of its files is missing or is not an image.
        ValueError: the JSON file is not that of a frame.
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
    """All readable frames in `folder`, sorted by step."""
    frames = []
    for path in frame_files(folder):
        try:
            frames.append(load_frame(path))
        except (OSError, ValueError):
            log.warning("%s is damaged and left out", path, exc_info=True)
    return frames


def _keep(folder: Path, stem: str, sample: Sample) -> str | dict[str, str]:
    """Store a sample. Returns what the JSON file holds: the text, or the image's file name."""
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
