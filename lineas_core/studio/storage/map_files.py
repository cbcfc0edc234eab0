"""The files of maps, and beside each a sidecar that restores its row if the database is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from lineas_core.errors import MapError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.studio.storage.disk import is_full, no_room
from lineas_core.studio.storage.map_rows import row_of
from lineas_core.studio.storage.rows import MapRow
from lineas_core.studio.storage.sidecars import read_row, write_row
from lineas_core.system.files import why

ENDING, SIDECAR, GLANCE = ".safetensors", ".json", ".glance"

log = logging.getLogger(__name__)


class MapFiles:
    """A folder of map files, their sidecars and previews.

    Args:
        folder: created when the first map is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, map_id: str) -> Path:
        """Path of a map's file."""
        return self._folder / f"{map_id}{ENDING}"

    def sidecar(self, map_id: str) -> Path:
        """Path of a map's sidecar."""
        return self._folder / f"{map_id}{SIDECAR}"

    def glance(self, map_id: str) -> Path:
        """Path of a map's preview, which can be regenerated."""
        return self._folder / f"{map_id}{GLANCE}"

    def maps(self) -> Iterator[Path]:
        """The paths of all map files, sorted."""
        return iter(sorted(self._folder.glob(f"[!.]*{ENDING}")))

    def write(self, row: MapRow, smap: SteeringMap) -> None:
        """Write a map and its sidecar, each atomically and flushed to disk.

        Raises:
            MapError: they cannot be written.
        """
        # Sidecar first: one without a map is harmless, but a map without a sidecar has no owner.
        try:
            write_row(self.sidecar(row.id), row)
            smap.save(self.path(row.id))
        except (OSError, MapError) as error:
            if is_full(error):
                raise MapError(no_room(self._folder.parent)) from error
            raise MapError(
                f"Cannot write the map into {self._folder} ({why(error)}). Let the app write "
                "there, and try again."
            ) from error

    def tell(self, row: MapRow) -> None:
        """Update the sidecar from its row; a failure is only logged, as the row is stored."""
        try:
            write_row(self.sidecar(row.id), row)
        except OSError:
            log.warning("the sidecar of map %s is not up to date", row.id, exc_info=True)

    def remove(self, map_id: str) -> None:
        """Remove a map, its sidecar and its preview, if they exist."""
        self.glance(map_id).unlink(missing_ok=True)
        self.path(map_id).unlink(missing_ok=True)
        self.sidecar(map_id).unlink(missing_ok=True)

    def row_of(self, map_id: str) -> MapRow | None:
        """Restore the row of a map file that has none; None if the map cannot be read.

        The row comes from the sidecar. Without a valid sidecar for this file, it is built from
        the map's metadata and has no owner ("").
        """
        sidecar = self.sidecar(map_id)
        try:
            smap = SteeringMap.load(self.path(map_id))
        except MapError as error:
            log.warning("left out: %s", error)
            return None
        try:
            row = read_row(sidecar, MapRow)
        except FileNotFoundError:
            return row_of(smap, map_id, "")
        except (OSError, ValueError) as error:
            log.warning("%s is of no use: %s", sidecar, error)
            return row_of(smap, map_id, "")
        if row.digest != smap.digest():
            log.warning("%s is about another map than the file beside it", sidecar)
            return row_of(smap, map_id, "")
        return row

    def tidy(self, known: set[str]) -> None:
        """Remove files left over by a process that died while writing or removing a map.

        Args:
            known: ids of maps that have a row; their sidecars are kept even if the map's file is
                missing.
        """
        for partial in self._folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        for sidecar in self._folder.glob(f"[!.]*{SIDECAR}"):
            if sidecar.stem not in known and not self.path(sidecar.stem).exists():
                sidecar.unlink(missing_ok=True)
