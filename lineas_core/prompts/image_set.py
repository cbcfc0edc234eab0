"""ImageSet: source and target pictures that a map is learned from, in place of prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from lineas_core.errors import ConfigError, PromptError
from lineas_core.prompts.prompt_set import MAX_LINES, MIN_PROMPTS, Sides


@dataclass(frozen=True)
class Picture:
    """A picture as a sample of training; two are equal if they have the same pixels and settings.

    Attributes:
        image: of any mode and size.
        prompt: what the denoiser is told that it shows; "" for nothing.
        noise: see `ImageSet`.
        digest: SHA-256 of the pixels.
    """

    image: Image.Image = field(compare=False)
    prompt: str = ""
    noise: float | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        shape = json.dumps([self.image.mode, self.image.size])
        pixels = self.image.tobytes()
        object.__setattr__(self, "digest", hashlib.sha256(shape.encode() + pixels).hexdigest())


@dataclass(frozen=True)
class ImageSet:
    """Unpaired source and target pictures, any number of each.

    A map learned from them, by any method, moves the activations that the denoiser has on noised
    pictures of the source to those that it has on noised pictures of the target. Each picture is
    scaled and cropped to the model's size, encoded by its VAE and noised by its scheduler, to one
    timestep: at pure noise, where many models start, no picture is left. Image sliders (Concept
    Sliders, Gandikota et al., ECCV 2024) are trained at timesteps drawn uniformly from the whole
    schedule, with the same noise for both pictures of a pair. Here the target is computed once,
    so each picture has one timestep; the i-th pictures of both sides have the same noise.

    The denoiser has to know noised pictures from its own training. A model that only ever drew
    from pure noise in one step, such as `emoji-onestep`, does not, and a warning is logged.

    Args:
        source: pictures, at least 4, each alone or with a prompt of its own: (picture, "a lion").
        target: pictures, likewise.
        prompt: what the denoiser is told about pictures without a prompt of their own.
        noise: the timestep, as a share of the schedule in (0, 1]: 1 is pure noise. None takes the
            first timestep of the model's own steps at which the picture is at least half as strong
            as the noise; if it has none, as one-step models that start from pure noise, 0.5.
        name: short name, used in file names.
        concept: what the target has and the source lacks.

    Raises:
        ConfigError: `noise` is out of range.
        PromptError: something is not a picture, there are too few or too many, or both sides are
            the same.
    """

    source: Sequence[Image.Image | tuple[Image.Image, str]]
    target: Sequence[Image.Image | tuple[Image.Image, str]]
    prompt: str = ""
    noise: float | None = None
    name: str = "pictures"
    concept: str = ""
    _sides: Sides[Picture] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.noise is not None and not 0 < self.noise <= 1:
            raise ConfigError(f"noise is {self.noise}; it must be above 0, and 1 at most.")
        source, target = self._pictures("source"), self._pictures("target")
        if sorted(p.digest for p in source) == sorted(p.digest for p in target):
            raise PromptError("target has the same pictures as source; there is nothing to learn.")
        object.__setattr__(self, "_sides", Sides(source, target))

    def hash(self) -> str:
        """A short hash of the pictures, their prompts and the noise, in order."""
        sides = [
            [(picture.digest, picture.prompt) for picture in side]
            for side in (self._sides.source, self._sides.target)
        ]
        text = json.dumps(["pictures", self.noise, *sides])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def split(self, holdout: float, seed: int) -> tuple[Sides[Picture], Sides[Picture]]:
        """Training and held-out pictures; see `Sides.split`."""
        return self._sides.split(holdout, seed)

    def _pictures(self, side: str) -> list[Picture]:
        given: Sequence[Any] = getattr(self, side)
        if isinstance(given, str | Image.Image) or not isinstance(given, Sequence):
            raise PromptError(f"{side} is a {type(given).__name__}; give a list of pictures.")
        if not MIN_PROMPTS <= len(given) <= MAX_LINES:
            raise PromptError(
                f"{side} has {len(given)} pictures; give {MIN_PROMPTS} to {MAX_LINES}."
            )
        found = []
        for number, item in enumerate(given, start=1):
            image, prompt = item if isinstance(item, tuple) and len(item) == 2 else (item, "")
            if not isinstance(image, Image.Image):
                raise PromptError(
                    f"{side} picture {number} is a {type(image).__name__}; give a PIL image, such "
                    "as Image.open(file), or one with its prompt."
                )
            if not isinstance(prompt, str):
                raise PromptError(
                    f"{side} picture {number} has a {type(prompt).__name__} as its prompt; give a "
                    "text."
                )
            found.append(Picture(image, prompt or self.prompt, self.noise))
        return found
