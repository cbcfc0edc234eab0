"""Concept presence: whether a text contains one of a concept's words."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache

from lineas_core.errors import ConfigError
from lineas_core.system.paths import packaged


@cache
def concept_words() -> dict[str, tuple[str, ...]]:
    """Concept -> the published list of its words and phrases (concepts.toml)."""
    text = packaged("metrics/concepts.toml").read_text(encoding="utf-8")
    return {name: tuple(words) for name, words in tomllib.loads(text).items()}


def concept_presence(texts: Sequence[str], concept: str) -> list[bool]:
    """For each text, whether it contains a word of `concept`: whole words, case-insensitive.

    Raises:
        ConfigError: there is no word list for the concept.

    >>> concept_presence(["A soccer match.", "A soccerish thing."], "football")
    [True, False]
    """
    expression = _expression(concept)
    return [expression.search(text) is not None for text in texts]


@cache
def _expression(concept: str) -> re.Pattern[str]:
    words = concept_words().get(concept)
    if words is None:
        raise ConfigError(
            f"concept is {concept!r}; there are word lists for {', '.join(concept_words())}."
        )
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
