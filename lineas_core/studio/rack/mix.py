"""The maps that the rack applies to a model, with their strengths and library rows."""

from __future__ import annotations

from dataclasses import dataclass

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.studio.access.moderation import check_steering
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.storage.library import Library
from lineas_core.studio.storage.store import MapRow


@dataclass(frozen=True)
class Mix:
    """The maps that are on, in the order in which they are applied.

    Attributes:
        rows: the library row of each map.
        maps: the maps, inverted where the rack says so.
        strengths: the strength of each map.
        inverses: whether each map is the inverse of the one that its row stores.
    """

    rows: tuple[MapRow, ...] = ()
    maps: tuple[SteeringMap, ...] = ()
    strengths: tuple[float, ...] = ()
    inverses: tuple[bool, ...] = ()

    @property
    def steer(self) -> list[tuple[SteeringMap, float]]:
        """The (map, strength) pairs, as `generate` takes them."""
        return list(zip(self.maps, self.strengths, strict=True))

    @property
    def concepts(self) -> list[str]:
        """The concepts of the maps, without duplicates."""
        return list(dict.fromkeys(row.concept for row in self.rows if row.concept))

    @property
    def titles(self) -> str:
        """The titles and strengths of the maps, such as "Watercolor 0.80 + Neon 0.30"."""
        return " + ".join(
            f"{row.title}{' inverse' if inverse else ''} {strength:.2f}"
            for row, strength, inverse in zip(self.rows, self.strengths, self.inverses, strict=True)
        )


def mix_of(
    rack: RackState, library: Library, owner: str, model: str, *, guarded: bool = False
) -> Mix:
    """The maps that the rack applies to `model`, limited to those that the owner may use.

    Args:
        rack: the maps, their order and their strengths.
        library: the library that stores them.
        owner: the visitor who uses them.
        model: the model that they are applied to.
        guarded: refuse maps that steer towards harm (`moderation.py`).

    Raises:
        ConfigError: too many are on.
        ContentError: a map steers towards harm.
        MapError: a map's file is damaged, or has no inverse.
    """
    rows = {row.id: row for row in library.maps(owner, model=model)}
    slots = rack.active(rows)
    maps = [library.map(slot.id, owner) for slot in slots]
    if guarded:
        for slot, smap in zip(slots, maps, strict=True):
            check_steering(smap, rows[slot.id].prompts, slot.strength, inverse=slot.inverse)
    return Mix(
        tuple(rows[slot.id] for slot in slots),
        tuple(m.inverse() if slot.inverse else m for m, slot in zip(maps, slots, strict=True)),
        tuple(slot.strength for slot in slots),
        tuple(slot.inverse for slot in slots),
    )
