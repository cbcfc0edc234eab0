"""Strip server paths from error messages."""

from __future__ import annotations

import re

# A path of two parts or more. An address has a colon or a slash before its first slash.
_PATH = re.compile(r"(?<![\w:/.~])/(?:[^\s/'\"<>]+/)+([^\s/'\"<>,;:)]*)")
# On Windows: C:\ or \\server\, and folders whose names may have spaces.
_WINDOWS_PATH = re.compile(
    r"(?<!\w)(?:[A-Za-z]:[\\/]|\\\\)(?:[^\\/:*?'\"<>|\n]+[\\/])+([^\s\\/:*?'\"<>|,;)]*)"
)


def without_paths(text: str) -> str:
    """The text with the last part only of every absolute path.

    >>> without_paths("/data/maps/a.safetensors is damaged; see https://hf.co/docs/hub.")
    '…/a.safetensors is damaged; see https://hf.co/docs/hub.'
    """
    return _PATH.sub(r"…/\1", _WINDOWS_PATH.sub(r"…/\1", text))
