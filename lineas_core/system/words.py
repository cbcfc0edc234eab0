"""Words of messages that depend on a number."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun.

    Args:
        count: how many.
        noun: of one.
        plural: of more; with an s by default.

    >>> counted(1, "map"), counted(2, "map"), counted(0, "entry", "entries")
    ('1 map', '2 maps', '0 entries')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
