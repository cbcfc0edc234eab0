"""Escapes CSV cells against formula injection, and reverses it."""

from __future__ import annotations

import re

# Characters that start a formula; in some locales the full-width forms do too.
_FIRST = "=+\\-@＝＋－＠"  # noqa: RUF001
# A spreadsheet that splits cells at semicolons or tabs, as in half of Europe, may start a new cell
# in the middle of a text.
_BEGIN, _LATER = r"(?<![\s\S])", r"(?<=[;\t\r\n])"
# Also match leading apostrophes, so that unescaping keeps those that were in the original text.
_FORMULA = re.compile(f"{_BEGIN}'*[{_FIRST}\t\r\n]|{_LATER}'*[{_FIRST}]")
_ESCAPED = re.compile(f"{_BEGIN}'(?='*[{_FIRST}\t\r\n])|{_LATER}'(?='*[{_FIRST}])")


def escaped(cell: str) -> str:
    """Put an apostrophe before everything in a cell that a spreadsheet would read as a formula.

    >>> escaped("=1+1"), escaped("a;-1"), escaped("1 - 1")
    ("'=1+1", "a;'-1", '1 - 1')
    """
    return _FORMULA.sub(r"'\g<0>", cell)


def unescaped(cell: str) -> str:
    """Reverse `escaped`.

    >>> unescaped(escaped("'=1")), unescaped("'tis")
    ("'=1", "'tis")
    """
    return _ESCAPED.sub("", cell)
