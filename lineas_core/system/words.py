"""Words of messages in singular and plural, and texts as they are compared."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun in singular or plural.

    Args:
        count: the number.
        noun: the singular.
        plural: the plural; by default the singular with an s.

    >>> counted(1, "map"), counted(2, "map"), counted(0, "entry", "entries")
    ('1 map', '2 maps', '0 entries')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def folded(text: str) -> str:
    """Text as it is compared: case folded, every run of whitespace one space.

    >>> folded("  A  CAT ") == folded("a cat")
    True
    """
    return " ".join(text.split()).casefold()
