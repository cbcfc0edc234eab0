"""The maps that were made here, as files in one folder."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from lineas_core.errors import MapError
from lineas_core.maps import SteeringMap


class MapLibrary:
    """Maps by id, which is the name of their file without its ending.

    Args:
        folder: where they are kept; made at need.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, smap: SteeringMap) -> str:
        """Save a map under a new id made of its name and time."""
        time = datetime.fromisoformat(smap.info.created).strftime("%Y%m%d-%H%M%S")
        stem = f"{smap.info.name}-{time}"
        taken = set(self.ids())
        number, map_id = 2, stem
        while map_id in taken:
            map_id, number = f"{stem}-{number}", number + 1
        smap.save(self._folder / f"{map_id}.safetensors")
        return map_id

    def ids(self) -> list[str]:
        """All ids, newest first."""
        files = self._folder.glob("[!.]*.safetensors")
        return [f.stem for f in sorted(files, key=lambda f: f.stat().st_mtime_ns, reverse=True)]

    def get(self, map_id: str) -> SteeringMap:
        """The map of an id.

        Raises:
            MapError: there is no such map, or its file is damaged.
        """
        if map_id not in self.ids():
            raise MapError(
                f"There is no map {map_id!r} here. Choose one of the list, or train one."
            )
        return SteeringMap.load(self._folder / f"{map_id}.safetensors")

    def choices(self, model: str) -> list[tuple[str, str]]:
        """(label, id) of the readable maps made for `model`, newest first."""
        labels = []
        for map_id in self.ids():
            try:
                info = self.get(map_id).info
            except MapError:
                continue
            if info.model == model:
                made = datetime.fromisoformat(info.created).astimezone()
                labels.append((f"{info.name} · {made:%d %b %H:%M}", map_id))
        return labels
