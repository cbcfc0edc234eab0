"""Cells of a CSV file that no spreadsheet takes for a formula, and back."""

from __future__ import annotations

import re

# What a formula begins with; the wide ones are read as the narrow ones in some languages.
_FIRST = "=+\\-@＝＋－＠"  # noqa: RUF001
# Where a spreadsheet parts cells at semicolons or tabs, as in half of Europe, a cell may begin in
# the middle of a text.
_BEGIN, _LATER = r"(?<![\s\S])", r"(?<=[;\t\r\n])"
# With apostrophes before it, so that one that was there is told from one that was put there.
_FORMULA = re.compile(f"{_BEGIN}'*[{_FIRST}\t\r\n]|{_LATER}'*[{_FIRST}]")
_ESCAPED = re.compile(f"{_BEGIN}'(?='*[{_FIRST}\t\r\n])|{_LATER}'(?='*[{_FIRST}])")


def escaped(cell: str) -> str:
    """The cell with an apostrophe before whatever a spreadsheet would take for a formula.

    >>> escaped("=1+1"), escaped("a;-1"), escaped("1 - 1")
    ("'=1+1", "a;'-1", '1 - 1')
    """
    return _FORMULA.sub(r"'\g<0>", cell)


def unescaped(cell: str) -> str:
    """What `escaped` was given.

    >>> unescaped(escaped("'=1")), unescaped("'tis")
    ("'=1", "'tis")
    """
    return _ESCAPED.sub("", cell)
