"""Errors of a full disk: how to recognise one, and the message for it."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

# What the system says where there is no room: the disk, the user's share, the process's limit.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# SQLite tells a used-up share and a limit as a write that failed.
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
_WORDS = ("No space left", "Disk quota exceeded", "File too large", "disk is full")


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is that there is no room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if getattr(error, "sqlite_errorcode", None) in _FULL_CODES:
            return True
        # safetensors says it in words only.
        if any(word in str(error) for word in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_room(home: Path) -> str:
    """What to tell people where `home` has no room."""
    return (
        f"LINEAS_HOME ({home}) is full; free some space there and try again. "
        "What was kept before is still there."
    )
