"""Text as a reader sees it, for filters of words: without what only machines tell apart."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from confusable_homoglyphs import confusables

# At least three letters, each followed by a space, a dot or the like: "s t u p i d", "s.t.u.p.i.d".
SPACED = re.compile(r"(?<!\w)\w(?:[\W_]{1,2}\w){2,}(?!\w)")
# Digits and signs that are read as letters inside a word.
AS_LETTERS = str.maketrans("0134578@$!|", "oieastbasil")
WORD = re.compile(r"[\w@$!|]+")
DRAWN_OUT = re.compile(r"([^\W\d_])\1{2,}")


def undisguised(text: str) -> str:
    r"""The text in small letters of ASCII, as far as it can be read as such.

    Invisible characters, accents and letters of other scripts that look like Latin ones
    (Unicode Technical Standard 39) are read as a reader does, digits and signs inside a word as
    letters, letters that are drawn out as one, and letters that are spaced out as words.

    >>> undisguised("S\u200b\u043e m\u0430ny w\u0430ys: m0r0n, s t u p i d, stuuupid")
    'so many ways: moron, stupid, stupid'
    """
    joined = SPACED.sub(lambda found: " ".join(_words(found[0])), _in_latin(text))
    worded = WORD.sub(lambda found: _lettered(found[0]), joined)
    return DRAWN_OUT.sub(r"\1", worded)


def spaced_out(text: str) -> list[str]:
    """What is written with something between all letters, each run of it without what is between.

    Where a word ends cannot be told.

    >>> spaced_out("N o t a t a l l, he said")
    ['notatall']
    """
    return ["".join(_words(found[0])) for found in SPACED.finditer(_in_latin(text))]


def _in_latin(text: str) -> str:
    composed = unicodedata.normalize("NFKC", text)
    visible = (char for char in composed if unicodedata.category(char) != "Cf")
    plain = unicodedata.normalize("NFD", "".join(visible))
    letters = (_latin(char) for char in plain if not unicodedata.combining(char))
    return "".join(letters).lower()


@cache
def _latin(char: str) -> str:
    """The ASCII letter that a character looks like; itself if there is none."""
    if char.isascii() or not char.isalpha():
        return char
    found = confusables.is_confusable(char, preferred_aliases=[]) or [{"homoglyphs": []}]
    like = [each["c"] for each in found[0]["homoglyphs"]]
    return next((each for each in like if len(each) == 1 and each.isascii()), char)


def _words(spaced: str) -> list[str]:
    """The words of letters that are spaced out, if something wider is between them."""
    # "a.b c.d" has spaces between words, "a b  c d" two of them.
    gap = r"\s+" if re.search(r"[^\w\s]", spaced) else r"\s{2,}"
    words = ["".join(filter(str.isalnum, word)) for word in re.split(gap, spaced)]
    return [word for word in words if word]


def _lettered(word: str) -> str:
    """A word with signs in it as letters; what has no letter, a number, stays as it is."""
    if not any(char.isalpha() for char in word):
        return word
    body = word.rstrip("!")
    return body.translate(AS_LETTERS) + word[len(body) :]
