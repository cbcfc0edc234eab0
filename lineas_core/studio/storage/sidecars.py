"""Sidecars: a row as a small file beside the file that it is about, for when the database is lost.

The database is authoritative while it is there; a sidecar only repeats whose a file is.
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
    """The row of a sidecar.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no sidecar of that kind, or not of the id that it is named by.
    """
    row = row_from_json(kind, path.read_text(encoding="utf-8"))
    if row.id != path.stem:
        raise ValueError(f"{path} is the sidecar of {row.id!r}.")
    return row
