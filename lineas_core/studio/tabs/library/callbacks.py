"""Callbacks of the library tab on the visitor's maps: search, rename, delete, restore."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from lineas_core.errors import LineasError
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.fields import checked_search
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.places import RackPlace, places_of, put_back, put_on
from lineas_core.studio.rack.rack import RackState, patch
from lineas_core.studio.tabs.library.map_list import first_of, list_patch
from lineas_core.studio.views import map_cards

log = logging.getLogger(__name__)


class DescribedOutputs(NamedTuple):
    """Descriptions of the chosen maps, and the title and tags of the first."""

    card: Any
    title: Any
    tags: Any


class TickedOutputs(NamedTuple):
    """The ids of the chosen maps, followed by the fields of `DescribedOutputs`."""

    chosen: Any
    card: Any
    title: Any
    tags: Any


class DeletedOutputs(NamedTuple):
    """The state that an undo needs, and updates for the list and the rack."""

    deleted: Any
    maps: Any
    rack: Any


class LibraryCallbacks:
    """Callbacks on maps.

    Args:
        studio: gives access to the maps.
        answers: gives access to their glances, which show how the maps look.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio, self._glances = studio, answers.glances

    @with_messages
    def listed(
        self, key: str, search: str, chosen: Sequence[str] | None
    ) -> tuple[dict[str, Any], list[str]]:
        """A list update with the maps that match the search, and the chosen ids among them."""
        rows = self._studio.library.maps(owner_of(key), search=checked_search(search))
        ids = {row.id for row in rows}
        still = [map_id for map_id in chosen or () if map_id in ids]
        found = ((row.id, self._glances.kept(row)) for row in rows)
        glances = {map_id: glance for map_id, glance in found if glance}
        return list_patch(rows=rows, chosen=still, glances=glances), still

    @with_messages
    def glances(self, key: str) -> Iterator[dict[str, Any]]:
        """Generate the missing glances one by one, yielding a list update for each."""
        owner = owner_of(key)
        for row in self._studio.library.maps(owner):
            if self._glances.can_make(row) and self._glances.kept(row) is None:
                try:
                    yield list_patch(glances={row.id: self._glances.make(owner, row)})
                except LineasError as error:
                    log.info("map %s has no glance: %s", row.id, error)

    @with_messages
    def add(self, key: str, chosen: Sequence[str], rack: Any) -> Any:
        """Put a map on the rack."""
        owner = owner_of(key)
        row = self._studio.library.row(first_of(chosen), owner)
        state = put_on(RackState.from_page(rack), row)
        return patch(rows=self._studio.library.maps(owner), state=state, ask=True)

    @with_messages
    def ticked(self, key: str, maps: Any) -> TickedOutputs:
        """The ids that are ticked in the list, and the descriptions of those maps."""
        chosen = [str(map_id) for map_id in (maps or {}).get("chosen", ())]
        return TickedOutputs(chosen, *self.describe(key, chosen))

    @with_messages
    def describe(self, key: str, chosen: Sequence[str]) -> DescribedOutputs:
        """Descriptions of the chosen maps, and the title and tags of the first, to edit."""
        rows = [self._studio.library.row(map_id, owner_of(key)) for map_id in chosen or ()]
        if not rows:
            hint = '<p class="ls-hint">Tick a map to rename, export or delete it.</p>'
            return DescribedOutputs(hint, "", "")
        cards = "".join(map(map_cards.card, rows))
        return DescribedOutputs(cards, rows[0].title, ", ".join(rows[0].tags))

    @with_messages
    def rename(self, key: str, chosen: Sequence[str], title: str, tags: str) -> Any:
        """Set the title and tags of the first chosen map."""
        owner, map_id = owner_of(key), first_of(chosen)
        self._studio.library.rename(map_id, owner, title)
        self._studio.library.tag(map_id, owner, tags.split(","))
        return patch(rows=self._studio.library.maps(owner))

    @with_messages
    def delete(
        self, key: str, chosen: Sequence[str], rack: Any, deleted: Mapping[str, RackPlace | None]
    ) -> DeletedOutputs:
        """Soft-delete maps; the state that an undo needs, and updates for the list and the rack.

        The state has every deleted map, so that `undo` can tell one that was not on the rack from
        one whose place was forgotten.
        """
        owner = owner_of(key)
        first_of(chosen)
        places = places_of(RackState.from_page(rack), chosen)
        gone = []
        for map_id in chosen:
            row = self._studio.library.row(map_id, owner)
            self._studio.library.delete(map_id, owner)
            gone.append(row)
        news = patch(rows=self._studio.library.maps(owner), ask=bool(places))
        state = {**deleted, **dict.fromkeys(chosen), **places}
        return DeletedOutputs(state, list_patch(gone=gone), news)

    @with_messages
    def undo(
        self, key: str, chosen: Sequence[str], rack: Any, deleted: Mapping[str, RackPlace | None]
    ) -> tuple[dict[str, Any], Any]:
        """Restore maps, also to their places on the rack; updates for the list and the rack.

        The page's state may have been dropped meanwhile, so what is deleted is in the database.
        """
        owner, state, placed = owner_of(key), RackState.from_page(rack), False
        for map_id in chosen:
            row = self._studio.library.undelete(map_id, owner)
            if map_id not in deleted:
                gr.Info(
                    f"“{escape(row.title, quote=False)}” is back in the library. If it was on the "
                    "rack, put it on again: its place there is no longer known."
                )
            elif (place := deleted[map_id]) is not None:
                state, placed = put_back(state, place), True
        news = patch(
            rows=self._studio.library.maps(owner), state=state if placed else None, ask=placed
        )
        return list_patch(back=chosen), news
