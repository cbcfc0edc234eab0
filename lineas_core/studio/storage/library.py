"""Maps and prompt sets as a visitor sees them: their own, and the gallery's.

Methods take the owner who asks, and never find, show or change what belongs to another owner.
Deleted items are hidden and can be restored, until `purge` removes them permanently.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lineas_core.diagnostics.report import HealthReport
from lineas_core.errors import MapError, PromptError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.storage.gallery import GALLERY, load_gallery
from lineas_core.studio.storage.map_files import ENDING, MapFiles
from lineas_core.studio.storage.map_rows import row_of
from lineas_core.studio.storage.store import MapRow, PromptRow, Store
from lineas_core.system.words import counted

MAX_CACHED = 32
MAX_TITLE = 120
MAX_TAGS, MAX_TAG = 12, 40


class Library:
    """The rows of a store together with the files of the maps.

    Args:
        store: holds the rows.
        folder: holds the maps' files; created when the first map is added.
        gallery: folder of the maps that ship; see `gallery.py`.
        clock: returns the time in seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        gallery: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._files, self._gallery_folder = store, MapFiles(folder), gallery
        self._clock = clock
        self._cache: OrderedDict[str, SteeringMap] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def _gallery(self) -> dict[str, MapRow]:
        return load_gallery(self._gallery_folder)

    def add_map(
        self,
        owner: str,
        smap: SteeringMap,
        *,
        title: str = "",
        prompts: PromptSet | None = None,
        health: HealthReport | None = None,
        recommended: float | None = None,
        losses: Sequence[float] = (),
        job: str = "",
        tags: Iterable[str] = (),
    ) -> MapRow:
        """Store a map: first its sidecar and file, flushed to disk, then its row.

        Args:
            owner: owner of the map.
            smap: the map.
            title: display title; that of the prompts by default.
            prompts: the prompts it was trained on.
            health: health report of the map.
            recommended: the strength to start with.
            losses: loss before each step of its training.
            job: id of the job that made it.
            tags: free-form tags.

        Raises:
            MapError: the title or a tag is too long, or a file cannot be written.
            StoreError: the row cannot be written; the files are removed again.
        """
        row = row_of(
            smap,
            uuid.uuid4().hex,
            owner,
            prompts=prompts,
            health=health,
            recommended=recommended,
            losses=tuple(losses),
            job=job,
            tags=checked_tags(tags),
            # The library is ordered by when maps were added, not by when they were trained.
            created=self._clock(),
        )
        if title.strip():
            row = replace(row, title=checked_title(title, MapError))
        try:
            self._files.write(row, smap)
            return self._store.add_map(row)
        except BaseException:
            self._files.remove(row.id)
            raise

    def row(self, map_id: str, owner: str) -> MapRow:
        """The row of a map that belongs to the owner or to the gallery.

        Raises:
            MapError: there is no map with that id, or it was deleted.
        """
        row = self._gallery.get(map_id) or self._store.map(map_id)
        if row is None or row.owner not in (owner or None, GALLERY) or row.deleted is not None:
            raise MapError(
                f"There is no map {map_id!r} here. Choose one of the list, or train one."
            )
        return row

    def map(self, map_id: str, owner: str) -> SteeringMap:
        """Load the map; the most recently used ones are cached in memory.

        Raises:
            MapError: as for `row`, or its file is missing or damaged.
        """
        row = self.row(map_id, owner)
        with self._lock:
            if map_id in self._cache:
                self._cache.move_to_end(map_id)
                return self._cache[map_id]
        path = self.file(map_id, owner)
        smap = SteeringMap.load(path)
        if smap.digest() != row.digest:
            raise MapError(
                f"{path} is not the map that was kept under this name. Put the file whose digest "
                f"begins with {row.digest[:12]} in its place, or import it as a new map."
            )
        with self._lock:
            self._cache[map_id] = smap
            while len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
        return smap

    def file(self, map_id: str, owner: str) -> Path:
        """Path of the map's file; callers may copy it but must not change it.

        Raises:
            MapError: as for `row`.
        """
        if self.row(map_id, owner).owner == GALLERY and self._gallery_folder is not None:
            return self._gallery_folder / f"{map_id}{ENDING}"
        return self._files.path(map_id)

    def glance(self, map_id: str) -> Path:
        """Path of the map's preview, which may not exist; it is removed with the map."""
        return self._files.glance(map_id)

    def maps(
        self,
        owner: str,
        *,
        model: str | None = None,
        modality: str | None = None,
        search: str = "",
        include_gallery: bool = True,
    ) -> list[MapRow]:
        """The owner's maps, newest first, then the gallery's in its own order.

        Args:
            owner: who asks.
            model: only maps for this model.
            modality: only maps for "text" or "image".
            search: words that must all occur in title, tags, concept, model or method; case is
                ignored.
            include_gallery: include the maps that ship.
        """
        rows = self._store.maps(owner)
        if include_gallery:
            rows += self._gallery.values()
        words = search.casefold().split()
        return [
            row
            for row in rows
            if (model is None or row.model == model)
            and (modality is None or row.modality == modality)
            and all(word in _searched(row) for word in words)
        ]

    def map_of_job(self, job_id: str, owner: str) -> MapRow | None:
        """The map made by one of the owner's jobs, if any."""
        row = self._store.map_of_job(job_id)
        return row if row is not None and row.owner == owner else None

    def rename(self, map_id: str, owner: str, title: str) -> MapRow:
        """Rename a map.

        Raises:
            MapError: as for `row`; it is in the gallery; the title is empty or too long.
        """
        self._own(map_id, owner)
        self._change(map_id, owner, title=checked_title(title, MapError))
        return self.row(map_id, owner)

    def tag(self, map_id: str, owner: str, tags: Iterable[str]) -> MapRow:
        """Replace the tags of a map.

        Raises:
            MapError: as for `row`; it is in the gallery; there are too many tags.
        """
        self._own(map_id, owner)
        self._change(map_id, owner, tags=checked_tags(tags))
        return self.row(map_id, owner)

    def delete(self, map_id: str, owner: str) -> None:
        """Hide a map until `undelete` restores it or `purge` removes it.

        Raises:
            MapError: as for `row`; it is in the gallery.
        """
        self._own(map_id, owner)
        self._change(map_id, owner, deleted=self._clock())

    def undelete(self, map_id: str, owner: str) -> MapRow:
        """Restore a deleted map.

        Raises:
            MapError: there is no map with that id any more; it is in the gallery.
        """
        if map_id in self._gallery:
            self._own(map_id, owner)
        if not self._change(map_id, owner, deleted=None):
            raise MapError(f"The map {map_id!r} cannot be brought back; it is gone for good.")
        return self.row(map_id, owner)

    def purge(self, older_than_seconds: float) -> int:
        """Permanently remove what was deleted over `older_than_seconds` ago; returns the map count.

        Removes nothing until the clock has run without jumps for as long; see `Store.steady_for`.
        """
        if self._store.steady_for(older_than_seconds) < older_than_seconds:
            return 0
        before = self._clock() - older_than_seconds
        gone = self._store.deleted_maps(before)
        for map_id in gone:
            # File before row: `rescan` would restore a file that has no row.
            self._files.remove(map_id)
            self._store.remove_map(map_id)
            with self._lock:
                self._cache.pop(map_id, None)
        self._store.remove_deleted_prompts(before)
        return len(gone)

    def rescan(self, *, mended: bool = False) -> list[MapRow]:
        """Add a row for every readable map file that has none, as after the database was lost.

        The row is read from the sidecar, which restores the map to its owner. A file without a
        valid sidecar gets a row without an owner (""), invisible until the file is imported. Rows
        without a sidecar get one. No maps may be added concurrently.

        Args:
            mended: the database was restored from a backup, so the sidecars are newer than its
                rows and update them.

        Returns:
            The new rows.
        """
        known, found = self._store.map_ids(), []
        for path in self._files.maps():
            if path.stem in known:
                kept = self._store.map(path.stem)
                if kept is not None and not self._files.sidecar(kept.id).exists():
                    self._files.tell(kept)
                elif kept is not None and mended:
                    self._follow(kept)
            elif (row := self._files.row_of(path.stem)) is not None:
                job = row.job if self._store.job(row.job) else ""
                found.append(self._store.add_map(replace(row, job=job)))
                self._store.name_map(row.id, job)
        self._files.tidy(known)
        return found

    def add_prompts(self, owner: str, prompts: PromptSet) -> PromptRow:
        """Store a prompt set."""
        return self._store.add_prompts(PromptRow(uuid.uuid4().hex, owner, prompts))

    def prompt_sets(self, owner: str) -> list[PromptRow]:
        """The owner's prompt sets, newest first."""
        return self._store.prompt_sets(owner)

    def prompts(self, prompts_id: str, owner: str) -> PromptRow:
        """The row of one of the owner's prompt sets.

        Raises:
            PromptError: there is no prompt set with that id, or it was deleted.
        """
        row = self._store.prompts(prompts_id)
        if row is None or row.owner != owner or row.deleted is not None:
            raise PromptError(f"There is no prompt set {prompts_id!r} here. Choose another.")
        return row

    def rename_prompts(self, prompts_id: str, owner: str, title: str) -> PromptRow:
        """Rename a prompt set.

        Raises:
            PromptError: as for `prompts`; the title is empty or too long.
        """
        row = self.prompts(prompts_id, owner)
        renamed = replace(row.prompts, title=checked_title(title, PromptError))
        self._store.change_prompts(prompts_id, owner, prompts=renamed)
        return self.prompts(prompts_id, owner)

    def delete_prompts(self, prompts_id: str, owner: str) -> None:
        """Hide a prompt set until `undelete_prompts` restores it or `purge` removes it.

        Raises:
            PromptError: as for `prompts`.
        """
        self.prompts(prompts_id, owner)
        self._store.change_prompts(prompts_id, owner, deleted=self._clock())

    def undelete_prompts(self, prompts_id: str, owner: str) -> PromptRow:
        """Restore a deleted prompt set.

        Raises:
            PromptError: there is no prompt set with that id any more.
        """
        if not self._store.change_prompts(prompts_id, owner, deleted=None):
            raise PromptError(
                f"The prompt set {prompts_id!r} cannot be brought back; it is gone for good."
            )
        return self.prompts(prompts_id, owner)

    def _own(self, map_id: str, owner: str) -> None:
        """Raise `MapError` unless the map is the owner's own, and so may be changed."""
        if self.row(map_id, owner).owner == GALLERY:
            raise MapError(
                f"The map {map_id!r} ships with the app and cannot be changed. Export it and "
                "import it again to have one of your own."
            )

    def _follow(self, row: MapRow) -> None:
        """Update a row of a restored database from its newer sidecar."""
        told = self._files.row_of(row.id)
        if told is not None and (told.owner, told.digest) == (row.owner, row.digest):
            changes = {"title": told.title, "tags": told.tags, "deleted": told.deleted}
            self._store.change_map(row.id, row.owner, **changes)

    def _change(self, map_id: str, owner: str, **changes: Any) -> bool:
        changed = self._store.change_map(map_id, owner, **changes)
        if changed and (row := self._store.map(map_id)) is not None:
            self._files.tell(row)
        return changed


def _searched(row: MapRow) -> str:
    return "\n".join((row.title, *row.tags, row.concept, row.model, row.method)).casefold()


def checked_title(title: str, error: type[MapError | PromptError]) -> str:
    """The title with whitespace normalised.

    Raises:
        MapError, PromptError: it is empty or too long; the class passed as `error` is raised.
    """
    text = " ".join(title.split())
    if not 1 <= len(text) <= MAX_TITLE:
        raise error(f"The title has {len(text)} characters; give it 1 to {MAX_TITLE}.")
    return text


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags with whitespace normalised, empty ones and duplicates removed, order kept.

    Raises:
        MapError: there are too many, or one is too long.
    """
    cleaned = tuple(dict.fromkeys(t for t in (" ".join(tag.split()) for tag in tags) if t))
    if len(cleaned) > MAX_TAGS or any(len(tag) > MAX_TAG for tag in cleaned):
        raise MapError(
            f"{counted(len(cleaned), 'tag')}, the longest of {max(map(len, cleaned))} characters; "
            f"give at most {MAX_TAGS} of at most {MAX_TAG}."
        )
    return cleaned
