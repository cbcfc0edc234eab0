"""Atomic file writes, and parsing of untrusted files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Settings and results nest four deep; far deeper nesting is an attempt to exhaust the stack.
MAX_JSON_DEPTH = 16


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which replaces `path` if the block succeeds.

    The replacement is atomic: a concurrent reader, or one after a crash, sees either the old
    contents or all of the new ones. On an error the temporary file is removed. The folder is
    created if it does not exist.

    Args:
        path: the file to replace.

    Raises:
        OSError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a.txt") as partial:
    ...         _ = partial.write_text("all of it")
    ...     Path(folder, "a.txt").read_text()
    'all of it'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Concurrent writers of the same file must not share a temporary file.
    partial = target.parent / f".{target.name}.{secrets.token_hex(8)}.partial"
    try:
        yield partial
        flush(partial)
        os.replace(partial, target)
        _flush_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write a file atomically with `replacing`; text is encoded as UTF-8.

    Args:
        path: the file to write.
        data: its whole contents.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
    return Path(path)


def flush(path: Path) -> None:
    """Wait until all of a file is on the disk.

    Windows flushes only what is open for writing.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hex digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def why(error: BaseException) -> str:
    """The reason for an error, without the path that the system puts into its messages.

    >>> why(FileNotFoundError(2, "No such file or directory", "/home/me/secret"))
    'No such file or directory'
    """
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    # safetensors appends the path to its messages like this.
    return str(error).partition(" at path ")[0][:200] or type(error).__name__


def parse_json(text: str) -> Any:
    """Parse JSON from an untrusted source, with a limit on nesting.

    Args:
        text: the caller limits its length.

    Raises:
        ValueError: it is not JSON, or nested too deeply; json.JSONDecodeError says where.

    >>> parse_json("[" * 99 + "]" * 99)
    Traceback (most recent call last):
    ...
    ValueError: it is nested deeper than 16 levels
    """
    too_deep = f"it is nested deeper than {MAX_JSON_DEPTH} levels"
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level, depth = [value], 0
    while level := [part for part in level if isinstance(part, list | dict)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(too_deep)
        level = [
            child for part in level for child in (part.values() if isinstance(part, dict) else part)
        ]
    return value


def _flush_folder(folder: Path) -> None:
    """Flush a folder to disk, if the system can, so that a rename survives a power cut."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
