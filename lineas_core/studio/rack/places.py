"""Positions of maps on the rack: where a map is added, and where an undo restores it."""

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
        solo: whether it was soloed, so that no other map steered.
    """

    slot: Slot
    before: tuple[str, ...]
    solo: bool


def places_of(rack: RackState, ids: Collection[str]) -> dict[str, RackPlace]:
    """The places of the maps in `ids` by id; maps that are not on the rack are left out."""
    names = tuple(slot.id for slot in rack.slots)
    return {
        slot.id: RackPlace(slot, names[:n], rack.solo == slot.id)
        for n, slot in enumerate(rack.slots)
        if slot.id in ids
    }


def put_back(rack: RackState, place: RackPlace) -> RackState:
    """The rack with the map restored, after the maps that preceded it and are still there."""
    rest = [slot for slot in rack.slots if slot.id != place.slot.id]
    at = max((n + 1 for n, slot in enumerate(rest) if slot.id in place.before), default=0)
    slots = (*rest[:at], place.slot, *rest[at:])
    return replace(rack, slots=slots, solo=place.slot.id if place.solo else rack.solo)


def put_on(rack: RackState, row: MapRow) -> RackState:
    """The rack with the map switched on, at its current position or else at the end."""
    slots = tuple(replace(s, on=True) if s.id == row.id else s for s in rack.slots)
    if all(slot.id != row.id for slot in slots):
        slots += (Slot(row.id, True, row.first_strength),)
    return replace(rack, slots=slots, modality=row.modality, solo="")


def first_rack(rows: Sequence[MapRow]) -> RackState:
    """A rack of the first `FIRST_MAPS` maps of each modality; the first of each is on."""
    slots: list[Slot] = []
    for modality in ("image", "text"):
        mine = [row for row in rows if row.modality == modality][:FIRST_MAPS]
        slots += [Slot(row.id, n == 0, row.first_strength) for n, row in enumerate(mine)]
    return RackState(tuple(slots))
