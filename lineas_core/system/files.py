"""Files of people: written whole or not at all, and read without trust."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Settings and results are four deep; what is far deeper is made to exhaust the stack.
DEEPEST_JSON = 16


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, in the folder of `path`, which takes its place when the block ends well.

    Whoever reads `path` meanwhile, or after a crash, finds what was there before or all that is
    new. After an error nothing is left of the new file. The folder is made if there is none.

    Args:
        path: of the file.

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
    # Two who write the same file at once must not share a partial one.
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
    """Write a file by `replacing`; texts as UTF-8.

    Args:
        path: of the file.
        data: all that it holds.

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
    """What went wrong, without the path that the system puts into its messages.

    >>> why(FileNotFoundError(2, "No such file or directory", "/home/me/secret"))
    'No such file or directory'
    """
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    # As safetensors writes it.
    return str(error).partition(" at path ")[0][:200] or type(error).__name__


def parse_json(text: str) -> Any:
    """The value of a JSON text that may come from anyone.

    Args:
        text: bounded in length by the caller.

    Raises:
        ValueError: it is no JSON, or nested too deep; json.JSONDecodeError says where.

    >>> parse_json("[" * 99 + "]" * 99)
    Traceback (most recent call last):
    ...
    ValueError: it is nested deeper than 16 levels
    """
    too_deep = f"it is nested deeper than {DEEPEST_JSON} levels"
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level, depth = [value], 0
    while level := [part for part in level if isinstance(part, list | dict)]:
        depth += 1
        if depth > DEEPEST_JSON:
            raise ValueError(too_deep)
        level = [
            child for part in level for child in (part.values() if isinstance(part, dict) else part)
        ]
    return value


def _flush_folder(folder: Path) -> None:
    """Make a new name outlast a power cut, where the system lets a folder be flushed."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
