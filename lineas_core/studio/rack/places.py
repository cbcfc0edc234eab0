"""Places of maps on the rack: where a map is put, and where an undo puts it back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.storage.store import MapRow

FIRST_MAPS = 3


@dataclass(frozen=True)
class RackPlace:
    """A map's place on the rack.

    Attributes:
        slot: its switch and strength.
        before: ids of all maps that were applied before it.
        solo: whether it was the only one that steered.
    """

    slot: Slot
    before: tuple[str, ...]
    solo: bool


def places_of(rack: RackState, ids: Collection[str]) -> dict[str, RackPlace]:
    """The places of those maps that are on the rack, by their ids."""
    names = tuple(slot.id for slot in rack.slots)
    return {
        slot.id: RackPlace(slot, names[:n], rack.solo == slot.id)
        for n, slot in enumerate(rack.slots)
        if slot.id in ids
    }


def put_back(rack: RackState, place: RackPlace) -> RackState:
    """The rack with the map at its place: after those that came before it and are there still."""
    rest = [slot for slot in rack.slots if slot.id != place.slot.id]
    at = max((n + 1 for n, slot in enumerate(rest) if slot.id in place.before), default=0)
    slots = (*rest[:at], place.slot, *rest[at:])
    return replace(rack, slots=slots, solo=place.slot.id if place.solo else rack.solo)


def put_on(rack: RackState, row: MapRow) -> RackState:
    """The rack with the map on: where it is, or at the end."""
    slots = tuple(replace(s, on=True) if s.id == row.id else s for s in rack.slots)
    if all(slot.id != row.id for slot in slots):
        slots += (Slot(row.id, True, row.first_strength),)
    return replace(rack, slots=slots, modality=row.modality, solo="")


def first_rack(rows: Sequence[MapRow]) -> RackState:
    """The first maps of each kind, of which the very first is on."""
    slots: list[Slot] = []
    for modality in ("image", "text"):
        mine = [row for row in rows if row.modality == modality][:FIRST_MAPS]
        slots += [Slot(row.id, n == 0, row.first_strength) for n, row in enumerate(mine)]
    return RackState(tuple(slots))
