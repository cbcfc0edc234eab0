"""What is on the screen, as a value: for snippets, bundles and links."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lineas_core.errors import ConfigError
from lineas_core.maps import SteeringMap
from lineas_core.snippets import Scene
from lineas_core.studio.mix import Mix
from lineas_core.studio.rack import RackState

LONGEST_LINK = 16_000


@dataclass(frozen=True)
class Screen:
    """What the two tabs that steer show.

    Attributes:
        rack: the maps and their strengths.
        image_model: of the image tab.
        image_prompts: its text field.
        image_seed: its seed.
        text_model: of the text tab.
        text_prompt: its prompt.
        text_seed: its seed.
        tokens: it writes at most.
    """

    rack: RackState
    image_model: str
    image_prompts: str
    image_seed: int
    text_model: str
    text_prompt: str
    text_seed: int
    tokens: int

    @property
    def model(self) -> str:
        """Of the tab that was shown last."""
        return self.image_model if self.rack.modality == "image" else self.text_model

    @classmethod
    def from_link(cls, code: str) -> Screen:
        """The screen that `to_link` wrote.

        Raises:
            ConfigError: the link is damaged.
        """
        try:
            if len(code) > LONGEST_LINK:
                raise ValueError("it is too long")
            raw = json.loads(base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)))
            return cls(
                rack=RackState.from_page({"state": raw["rack"]}),
                image_model=str(raw["image_model"]),
                image_prompts=str(raw["image_prompts"]),
                image_seed=int(raw["image_seed"]),
                text_model=str(raw["text_model"]),
                text_prompt=str(raw["text_prompt"]),
                text_seed=int(raw["text_seed"]),
                tokens=int(raw["tokens"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise ConfigError(
                f"The link's scene cannot be read ({error}). Copy the whole link again."
            ) from error

    def to_link(self) -> str:
        """The screen as letters, digits, - and _, for an address."""
        text = json.dumps({**self.__dict__, "rack": self.rack.to_page()}, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def scene_of(
    screen: Screen, mix: Mix, prompts: Sequence[str]
) -> tuple[Scene, dict[str, SteeringMap]]:
    """What runs, and its maps by file name: those of the rack as they act, inverses included.

    Args:
        screen: the screen.
        mix: the rack's maps on its model.
        prompts: of the tab that was shown last.
    """
    files: dict[str, SteeringMap] = {}
    used: list[tuple[str, float | None]] = []
    for row, smap, strength, inverse in zip(
        mix.rows, mix.maps, mix.strengths, mix.inverses, strict=True
    ):
        name = _file_name(row.title + (" inverse" if inverse else ""), files)
        files[name] = smap
        used.append((name, strength))
    text = screen.rack.modality == "text"
    scene = Scene(
        model=screen.model,
        modality=screen.rack.modality,
        prompts=tuple(prompts),
        maps=tuple(used),
        seed=screen.text_seed if text else screen.image_seed,
        max_new_tokens=screen.tokens,
    )
    return scene, files


def _file_name(title: str, taken: dict[str, Any]) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:60] or "map"
    name, number = f"{stem}.safetensors", 2
    while name in taken:
        name, number = f"{stem}-{number}.safetensors", number + 1
    return name
