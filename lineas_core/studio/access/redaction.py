"""Strip server paths from error messages."""

from __future__ import annotations

import re

# An absolute path of at least two parts. In a URL, `:` or `/` precedes the first slashes.
_PATH = re.compile(r"(?<![\w:/.~])/(?:[^\s/'\"<>]+/)+([^\s/'\"<>,;:)]*)")
# A Windows path: it starts with C:\ or \\server\, and its folder names may contain spaces.
_WINDOWS_PATH = re.compile(
    r"(?<!\w)(?:[A-Za-z]:[\\/]|\\\\)(?:[^\\/:*?'\"<>|\n]+[\\/])+([^\s\\/:*?'\"<>|,;)]*)"
)


def without_paths(text: str) -> str:
    """The text with every absolute path shortened to its last part.

    >>> without_paths("/data/maps/a.safetensors is damaged; see https://hf.co/docs/hub.")
    '…/a.safetensors is damaged; see https://hf.co/docs/hub.'
    """
    return _PATH.sub(r"…/\1", _WINDOWS_PATH.sub(r"…/\1", text))
