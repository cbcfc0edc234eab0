"""Words that indicate a user-defined concept, one without a published word list."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lineas_core.errors import ConfigError
from lineas_core.metrics.concepts import concept_words
from lineas_core.metrics.own_words import TELLING, own_words
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.storage.store import MapRow
from lineas_core.system.words import folded

MAX_FIELD = 4000


@dataclass(frozen=True)
class OwnConcept:
    """A concept without a published word list.

    Attributes:
        name: the concept.
        words: words that count as a mention of the concept, with any ending.
        prompts: the prompt set that its map was made from.
    """

    name: str
    words: tuple[str, ...]
    prompts: PromptSet


def own_concepts(rows: Sequence[MapRow], field: str = "") -> tuple[OwnConcept, ...]:
    """The distinct concepts of `rows` that have no published word list.

    Args:
        rows: maps that are on; those whose prompts are unknown are skipped.
        field: lines such as "volcanoes: lava, crater"; each overrides the words derived from the
            map's prompts.

    Raises:
        ConfigError: the field is too long, or a line of it does not name a concept.
    """
    edited = _read(field)
    found: dict[str, OwnConcept] = {}
    for row in rows:
        name = row.concept
        if not name or name in concept_words() or row.prompts is None or name in found:
            continue
        words = edited.get(folded(name))
        if words is None:
            words = own_words(row.prompts.source, row.prompts.target, name, TELLING)
        found[name] = OwnConcept(name, words, row.prompts)
    return tuple(found.values())


def as_field(concepts: Sequence[OwnConcept]) -> str:
    """Format concepts as the `field` argument of `own_concepts`, one concept per line."""
    return "\n".join(f"{each.name}: {', '.join(each.words)}" for each in concepts)


def _read(field: str) -> Mapping[str, tuple[str, ...]]:
    if len(field) > MAX_FIELD:
        raise ConfigError(f"The words have {len(field)} characters; shorten them to {MAX_FIELD}.")
    found: dict[str, tuple[str, ...]] = {}
    for line in filter(str.strip, field.splitlines()):
        name, colon, words = line.rpartition(":")
        if not colon:
            raise ConfigError(
                f"The line {line.strip()!r:.80} has no colon; write the concept, a colon, and its "
                "words separated by commas."
            )
        listed = (" ".join(re.findall(r"[\w'-]+", word.lower())) for word in words.split(","))
        found[folded(name)] = tuple(dict.fromkeys(filter(None, listed)))
    return found
