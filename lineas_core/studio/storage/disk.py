"""Detect errors caused by a full disk, and the message shown for them."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

# errno values for a full disk, an exceeded disk quota, and the process's file size limit.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# SQLite reports an exceeded quota or file size limit as a failed write.
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
_WORDS = ("No space left", "Disk quota exceeded", "File too large", "disk is full")

# The message for a full disk that is not said to be that of LINEAS_HOME.
TEMPORARY_FULL = (
    "The disk of the app's temporary files is full. What was kept before is still there. Try again "
    "in an hour, when uploads and downloads have been removed, or tell the host, who can free room "
    "with `lineas clean`."
)


def is_full(error: BaseException | None) -> bool:
    """Whether the error, or one in its `__cause__`/`__context__` chain, means a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if getattr(error, "sqlite_errorcode", None) in _FULL_CODES:
            return True
        # safetensors reports a full disk only in its message.
        if any(word in str(error) for word in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_room(home: Path) -> str:
    """The message for a full disk at `home`."""
    return (
        f"LINEAS_HOME ({home}) is full; free some space there, as with `lineas clean`, and try "
        "again. What was kept before is still there."
    )
