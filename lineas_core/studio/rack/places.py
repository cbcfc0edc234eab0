"""Where maps were on the rack before they were deleted, so that an undo puts them back there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from lineas_core.studio.rack.rack import RackState, Slot


@dataclass(frozen=True)
class Place:
    """A map's place on the rack.

    Attributes:
        slot: its switch and strength.
        before: ids of all maps that were applied before it.
        solo: whether it was the only one that steered.
    """

    slot: Slot
    before: tuple[str, ...]
    solo: bool


def places_of(rack: RackState, ids: Collection[str]) -> dict[str, Place]:
    """The places of those maps that are on the rack, by their ids."""
    names = tuple(slot.id for slot in rack.slots)
    return {
        slot.id: Place(slot, names[:n], rack.solo == slot.id)
        for n, slot in enumerate(rack.slots)
        if slot.id in ids
    }


def put_back(rack: RackState, place: Place) -> RackState:
    """The rack with the map at its place: after those that came before it and are there still."""
    rest = [slot for slot in rack.slots if slot.id != place.slot.id]
    at = max((n + 1 for n, slot in enumerate(rest) if slot.id in place.before), default=0)
    slots = (*rest[:at], place.slot, *rest[at:])
    return replace(rack, slots=slots, solo=place.slot.id if place.solo else rack.solo)
