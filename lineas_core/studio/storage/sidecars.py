"""Sidecars: a copy of a row in a JSON file beside the map or checkpoint that it describes.

The database is authoritative; sidecars restore rows and their owners if it is lost.
"""

from __future__ import annotations

from pathlib import Path

from lineas_core.studio.storage.rows import JobRow, MapRow, Row, row_from_json, row_to_json
from lineas_core.system.files import write_whole


def write_row(path: Path, row: JobRow | MapRow) -> None:
    """Write a row's sidecar.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(path, row_to_json(row))


def read_row(path: Path, kind: type[Row]) -> Row:
    """Read the row from a sidecar.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a sidecar of that kind, or its id differs from the file name.
    """
    row = row_from_json(kind, path.read_text(encoding="utf-8"))
    if row.id != path.stem:
        raise ValueError(f"{path} is the sidecar of {row.id!r}.")
    return row
