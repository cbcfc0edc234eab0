"""The maps' files, and the sidecar beside each that tells its row when the database is lost."""

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
    """A folder of maps.

    Args:
        folder: made at need.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, map_id: str) -> Path:
        """Of a map's file."""
        return self._folder / f"{map_id}{ENDING}"

    def sidecar(self, map_id: str) -> Path:
        """Of its sidecar."""
        return self._folder / f"{map_id}{SIDECAR}"

    def glance(self, map_id: str) -> Path:
        """Of the file that shows what it does, which can be made again."""
        return self._folder / f"{map_id}{GLANCE}"

    def maps(self) -> Iterator[Path]:
        """The maps' files."""
        return iter(sorted(self._folder.glob(f"[!.]*{ENDING}")))

    def write(self, row: MapRow, smap: SteeringMap) -> None:
        """Write a map and its sidecar, whole and on the disk.

        Raises:
            MapError: they cannot be written.
        """
        # A sidecar without its file is nothing; a file without its sidecar would be nobody's.
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
        """Bring a sidecar up to date with its row, which is safe, if that can be done."""
        try:
            write_row(self.sidecar(row.id), row)
        except OSError:
            log.warning("the sidecar of map %s is not up to date", row.id, exc_info=True)

    def remove(self, map_id: str) -> None:
        """Remove a map and all that is kept beside it, if they are there."""
        self.glance(map_id).unlink(missing_ok=True)
        self.path(map_id).unlink(missing_ok=True)
        self.sidecar(map_id).unlink(missing_ok=True)

    def row_of(self, map_id: str) -> MapRow | None:
        """What a file without a row tells of itself; None where it is no readable map.

        It is the row in its sidecar. Without one that fits the file, its owner is "": nobody.
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
        """Remove what a process leaves that dies while it writes or removes a map.

        Args:
            known: ids of maps whose rows are there; theirs stay, whatever became of the file.
        """
        for partial in self._folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        for sidecar in self._folder.glob(f"[!.]*{SIDECAR}"):
            if sidecar.stem not in known and not self.path(sidecar.stem).exists():
                sidecar.unlink(missing_ok=True)
