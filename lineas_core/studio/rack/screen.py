"""The state of the screen as a value, for snippets, bundles and links."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.scenes.scene import Scene, UsedMap
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.storage.store import MapRow

MAX_LINK = 32_000
TABS = ("image", "text", "train", "compare", "understand", "library")


class ScreenFields(NamedTuple):
    """The fields of the two steering tabs: either the components or their values."""

    image_model: Any
    image_prompts: Any
    image_seed: Any
    text_model: Any
    text_prompt: Any
    text_seed: Any
    tokens: Any


@dataclass(frozen=True)
class Screen:
    """The state of the two steering tabs.

    Attributes:
        rack: the maps and their strengths.
        image_model: model of the image tab.
        image_prompts: text of the image tab's prompt field.
        image_seed: seed of the image tab.
        text_model: model of the text tab.
        text_prompt: prompt of the text tab.
        text_seed: seed of the text tab.
        tokens: maximum number of tokens that the text tab generates.
        tab: the tab that is open, one of `TABS`; empty if unknown.
        titles: id of a map on the rack -> its title, to name it to a recipient who lacks it.
        digests: id of a map on the rack -> its digest, to find it in another visitor's library.
    """

    rack: RackState
    image_model: str
    image_prompts: str
    image_seed: int
    text_model: str
    text_prompt: str
    text_seed: int
    tokens: int
    tab: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The model of the tab that was shown last."""
        return self.image_model if self.rack.modality == "image" else self.text_model

    @classmethod
    def from_link(cls, code: str) -> Screen:
        """The screen that `to_link` encoded.

        Raises:
            ConfigError: the link is damaged.
        """
        try:
            if len(code) > MAX_LINK:
                raise ValueError("it is too long")
            return cls.from_json(base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)))
        except (ConfigError, ValueError) as error:
            raise ConfigError(
                f"The link's scene cannot be read ({error}). Copy the whole link again."
            ) from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Screen:
        """The screen stored as JSON in a link or in the browser's storage.

        Raises:
            ConfigError: the text is not a screen.
        """
        try:
            raw = json.loads(text)
            tab = raw.get("tab", "")
            return cls(
                rack=RackState.from_page({"state": raw["rack"]}),
                image_model=str(raw["image_model"]),
                image_prompts=str(raw["image_prompts"]),
                image_seed=int(raw["image_seed"]),
                text_model=str(raw["text_model"]),
                text_prompt=str(raw["text_prompt"]),
                text_seed=int(raw["text_seed"]),
                tokens=int(raw["tokens"]),
                tab=tab if tab in TABS else "",
                titles=_texts(raw.get("titles", {})),
                digests=_texts(raw.get("digests", {})),
            )
        except (
            ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError,
        ) as error:  # fmt: skip
            raise ConfigError(f"This is not a screen ({error}).") from error

    def settled(self, rows: Iterable[MapRow]) -> tuple[Screen, list[str]]:
        """The screen limited to the maps in `rows`, and the titles of the maps that are missing.

        A map with another id but the same digest is the same map.
        """
        rows = list(rows)
        ids, twins = {row.id for row in rows}, {row.digest: row.id for row in rows}
        found: dict[str, str] = {}
        missing: list[str] = []
        slots: list[Slot] = []
        for slot in self.rack.slots:
            mine = slot.id if slot.id in ids else twins.get(self.digests.get(slot.id, ""), "")
            if mine:
                found[slot.id] = mine
                slots.append(replace(slot, id=mine))
            else:
                missing.append(self.titles.get(slot.id, "a map without a title"))
        rack = replace(self.rack, slots=tuple(slots), solo=found.get(self.rack.solo, ""))
        return replace(self, rack=rack), missing

    def named(self, rows: Iterable[MapRow]) -> Screen:
        """The screen limited to the maps in `rows`, with their titles and digests filled in."""
        known = {row.id: row for row in rows}
        slots = tuple(slot for slot in self.rack.slots if slot.id in known)
        return replace(
            self,
            rack=replace(self.rack, slots=slots),
            titles={slot.id: known[slot.id].title for slot in slots},
            digests={slot.id: known[slot.id].digest for slot in slots},
        )

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        """The values of each tab's fields, except the models."""
        return {
            "image": {"prompts": self.image_prompts, "seed": self.image_seed},
            "text": {"prompts": self.text_prompt, "seed": self.text_seed, "tokens": self.tokens},
        }

    @property
    def values(self) -> ScreenFields:
        """The values of the fields of both tabs."""
        return ScreenFields(
            self.image_model, self.image_prompts, self.image_seed, self.text_model,
            self.text_prompt, self.text_seed, self.tokens,
        )  # fmt: skip

    def to_link(self) -> str:
        """The screen encoded in letters, digits, - and _, for use in a URL."""
        text = json.dumps({**asdict(self), "rack": self.rack.to_page()}, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def scene_of(
    screen: Screen, mix: Mix, prompts: Sequence[str]
) -> tuple[Scene, dict[str, SteeringMap]]:
    """The scene of the tab shown last, and its maps by file name, already inverted where needed.

    Args:
        screen: the screen.
        mix: the maps that the rack applies to the screen's model.
        prompts: the prompts of the tab that was shown last.
    """
    files: dict[str, SteeringMap] = {}
    used: list[UsedMap] = []
    for row, smap, strength, inverse in zip(
        mix.rows, mix.maps, mix.strengths, mix.inverses, strict=True
    ):
        name = _file_name(row.title + (" inverse" if inverse else ""), files)
        files[name] = smap
        used.append(UsedMap(name, strength))
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


def _texts(raw: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(text) for name, text in raw.items()}


def _file_name(title: str, taken: dict[str, Any]) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:60] or "map"
    name, number = f"{stem}.safetensors", 2
    while name in taken:
        name, number = f"{stem}-{number}.safetensors", number + 1
    return name
