"""Copies: whether a text repeats several words in a row of the sentences a map was trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Of two sentences on one subject, hardly any share so many words in a row by chance.
WORDS = 5
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def has_copies(texts: Sequence[str], sentences: Sequence[str], words: int = WORDS) -> list[bool]:
    """For each text, whether it has `words` words in a row from one of the sentences.

    Case and punctuation do not count.

    >>> has_copies(["She saw the ball, in the net!", "The net."], ["He saw the ball in the net."])
    [True, False]
    """
    known = {run for sentence in sentences for run in _runs(sentence, words)}
    return [not known.isdisjoint(_runs(text, words)) for text in texts]


def _runs(text: str, words: int) -> set[tuple[str, ...]]:
    found = _WORD.findall(text.casefold())
    return set(zip(*(found[i:] for i in range(words)), strict=False))
