"""Library metadata of a map, written to and read from exported map files.

To export another field of `MapRow` with its map, add a line to `_FIELDS`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from lineas_core.errors import LineasError, MapError
from lineas_core.maps.file_format import read_extras
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.scenes.scene import MAX_STRENGTH, MIN_STRENGTH
from lineas_core.studio.storage.library import checked_tags, checked_title
from lineas_core.studio.storage.rows import MapRow

# Maximum length of a file name's stem in bytes; file systems allow 255 for the whole name.
MAX_STEM = 120


class _Field(NamedTuple):
    """Conversion of a row's field to JSON, and back from untrusted JSON. None is not converted."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def extras_of(row: MapRow) -> dict[str, Any]:
    """The row's exported fields as JSON values, for `SteeringMap.save`."""
    values = {name: getattr(row, name) for name in _FIELDS}
    return {name: _FIELDS[name].write(v) for name, v in values.items() if v not in (None, ())}


def row_fields(extras: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Arguments for `Library.add_map` from a file's extras, and a sentence per rejected field.

    Each field is validated on its own, so an invalid one does not discard the others.
    """
    fields: dict[str, Any] = {}
    refused: list[str] = []
    for name, field in _FIELDS.items():
        if name in extras:
            try:
                fields[name] = field.read(extras[name])
            except (LineasError, LookupError, TypeError, ValueError, OverflowError) as error:
                refused.append(f"Its {name} {_are(name)} left out: {_short(error)}")
    return fields, refused


def told_by(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """`row_fields` of a map's file; if its extras cannot be read, no fields and the error."""
    try:
        return row_fields(read_extras(path))
    except MapError as error:
        return {}, [str(error)]


def file_name(title: str, taken: Container[str] = (), suffix: str = ".safetensors") -> str:
    """A file name for a map, made from its title; numbered if that name is taken."""
    letters = re.sub(r"[^\w-]+", "-", title).strip("-")
    stem = letters.encode()[:MAX_STEM].decode(errors="ignore") or "map"
    name, number = f"{stem}{suffix}", 2
    while name in taken:
        name, number = f"{stem}-{number}{suffix}", number + 1
    return name


def _read_title(value: Any) -> str:
    return checked_title(_text(value), MapError)


def _read_tags(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.60} is no list.")
    return checked_tags(map(_text, value))


def _read_prompts(value: Any) -> PromptSet:
    return PromptSet.parse("its prompts", json.dumps(value).encode())


def _read_strength(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.60} is no finite number.")
    if not MIN_STRENGTH <= value <= MAX_STRENGTH:
        raise ValueError(f"{value:.60g} is not between {MIN_STRENGTH:g} and {MAX_STRENGTH:g}.")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds half a character.") from error
    return value


def _are(name: str) -> str:
    return "were" if name.endswith("s") else "was"


def _short(error: Exception) -> str:
    """The first line of the error's message, cut to 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _as_it_is(value: Any) -> Any:
    return value


_FIELDS: Mapping[str, _Field] = {
    "title": _Field(_as_it_is, _read_title),
    "tags": _Field(list, _read_tags),
    "prompts": _Field(asdict, _read_prompts),
    "recommended": _Field(_as_it_is, _read_strength),
}
