"""A scene: the model, prompts, maps, strengths and seeds that produce texts or pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lineas_core.errors import ConfigError
from lineas_core.models.shared.batches import MAX_SEED
from lineas_core.system.words import counted

# Range of the strengths that sliders have.
MIN_STRENGTH, MAX_STRENGTH = -1.0, 2.0


@dataclass(frozen=True)
class UsedMap:
    """A map used by a scene.

    Attributes:
        name: the key to look it up by: a file name, or an id in the library.
        strength: None if it is swept.
        inverse: whether its inverse is used.
        digest: of the stored map (`SteeringMap.digest`), to detect a different map of the same
            name; empty if the scene and its maps are stored together.
    """

    name: str
    strength: float | None
    inverse: bool = False
    digest: str = ""


@dataclass(frozen=True)
class Scene:
    """Everything needed to reproduce a result of texts or pictures.

    Without strengths, the result is an untouched and a steered output per prompt. With strengths,
    it is a grid with one column per strength and one row per prompt. To run one prompt on several
    seeds, repeat the prompt and give one seed each. A grid of two maps has one prompt, and one row
    per strength in `down`.

    Args:
        model: the name to load it by.
        modality: "text" or "image".
        prompts: the rows, at least one.
        maps: in the order they are applied.
        seed: one for all prompts, or one for each.
        strengths: the columns of a grid: strengths of the swept maps.
        down: the rows of a grid of two maps, pictures only: strengths of the second swept map,
            while `strengths` are those of the first.
        max_new_tokens: for texts.
        temperature: for texts.

    Raises:
        ConfigError: a value is out of range, or a strength is missing; the message names it.
    """

    model: str
    modality: Literal["text", "image"]
    prompts: tuple[str, ...]
    maps: tuple[UsedMap, ...] = ()
    seed: int | tuple[int, ...] = 0
    strengths: tuple[float, ...] = ()
    down: tuple[float, ...] = ()
    max_new_tokens: int = 80
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.modality not in ("text", "image"):
            raise ConfigError(f"modality is {self.modality!r}; it must be text or image.")
        if not self.prompts:
            raise ConfigError("prompts is empty; give at least one.")
        fixed = [used.strength for used in self.maps if used.strength is not None]
        for number in (*fixed, *self.strengths, *self.down, self.temperature):
            if not math.isfinite(number):
                raise ConfigError(f"{number} is not a finite number; strengths must be.")
        for seed in self.seeds:
            if not 0 <= seed <= MAX_SEED:
                raise ConfigError(f"seed is {seed}; choose 0 to {MAX_SEED}.")
        if isinstance(self.seed, tuple) and len(self.seed) != len(self.prompts):
            raise ConfigError(
                f"{counted(len(self.seed), 'seed')} for {counted(len(self.prompts), 'prompt')}; "
                "give one, or one for each."
            )
        if self.swept and not self.strengths:
            raise ConfigError("A map has no strength, and strengths is empty; give one of the two.")
        if self.down:
            self._check_crossed()

    def _check_crossed(self) -> None:
        if self.modality != "image":
            raise ConfigError(f"down is {self.down}; a grid of two maps is of images, not texts.")
        if len(self.prompts) != 1 or len(self.swept) != 2:
            given = counted(len(self.prompts), "prompt"), counted(len(self.swept), "swept map")
            raise ConfigError(
                f"{' and '.join(given)}; a grid of two maps takes one prompt and two swept maps."
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds as a tuple: one for all prompts, or one for each."""
        return self.seed if isinstance(self.seed, tuple) else (self.seed,)

    @property
    def swept(self) -> tuple[int, ...]:
        """Indices into `maps` of the swept maps."""
        return tuple(i for i, used in enumerate(self.maps) if used.strength is None)
