"""Reads prompts from JSON, JSON lines and YAML."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

import yaml

from lineas_core.errors import PromptFileError
from lineas_core.prompts.columns import PAIR_NAMES, TEXT_NAMES, Picked, read_columns, role
from lineas_core.prompts.lines import (
    MAX_PLACES,
    MAX_TITLE,
    SIDES,
    Collector,
    clean,
    listed,
    split,
)
from lineas_core.prompts.prompt_set import is_whole
from lineas_core.system.files import MAX_JSON_DEPTH, parse_json
from lineas_core.system.words import counted

# YAML is slow to parse, and lists of prompts for sliders are only a few kilobytes.
MAX_YAML = 1 << 18
LINES = (".jsonl", ".ndjson")
SET_FIELDS = {"name", "title", "modality", "concept", "license"}
# Only JSON begins like this: with a quoted key, or a list of objects or of quoted texts.
BEGINNING = re.compile(r'\s*(\[\s*)?\{\s*"[^"\n]*"\s*:|\s*\[\s*"[^"\n]*"\s*(,|\])')
# No line of JSON ends like a sentence.
JSON_LINE = re.compile(r'\s*[\[\]{}"\d\-tfn].*[\[\]{},":\dels]\s*')
KEY = re.compile(
    r"(?:- +)?[\"']?(target|source|positive|negative|neutral|unconditional|prompt|text|title|name"
    r"|concept)s?[\"']?:(?:\s|$)"
)


def find_data(name: str, text: str, ending: str) -> Any:
    """Parse a text as JSON, JSON lines or YAML; None if it is none of them.

    Args:
        name: file name, for error messages.
        text: the whole text.
        ending: extension of the name, in lower case; a file called JSON or YAML must parse as such.

    Raises:
        PromptFileError: it is meant to be one of them, but cannot be parsed.
    """
    stripped = text.strip().lstrip("\ufeff")
    called = ending in (".json", *LINES)
    if stripped[:1] in ("{", "[") or called:
        return _json(name, text, ending)
    if stripped[:1] == '"' and stripped[-1:] == '"':
        lines = [line for line in split(text) if line.strip()]
        texts = [_or_none(line) for line in lines]
        return texts if all(isinstance(t, str) for t in texts) else None
    if ending in (".yaml", ".yml") or KEY.match(_first(text)):
        return _yaml(name, text, ending in (".yaml", ".yml"))
    return None


def _json(name: str, text: str, ending: str) -> Any:
    called = ending in (".json", *LINES)
    whole = None
    try:
        value = parse_json(text)
        if ending not in LINES or isinstance(value, list) or set(SIDES) & _lists(value):
            return value
    except ValueError as error:
        whole = error
    every = ((n, line) for n, line in enumerate(split(text), start=1) if line.strip())
    # One more than may be is enough to refuse them all.
    filled = list(islice(every, MAX_PLACES + 1))
    values = [_or_none(line) for _, line in filled]
    if filled and all(isinstance(value, dict | list) for value in values):
        return _Lines((f"line {n}", v) for (n, _), v in zip(filled, values, strict=True))
    # Python writes lists with single quotes, which YAML reads.
    if re.match(r"\s*[\[{]\s*[\[{]?\s*'", text) and (value := _yaml(name, text, False)) is not None:
        return value
    meant = bool(BEGINNING.match(text)) and all(JSON_LINE.fullmatch(line) for _, line in filled)
    if not (called or meant):
        return None
    bad = next((n for (n, _), value in zip(filled, values, strict=True) if value is None), 1)
    if isinstance(values[0] if values else None, dict) and len(filled) > 1:
        raise PromptFileError(
            f"{name} line {bad}: not readable JSON. Fix it, or give one prompt per line as .txt."
        ) from whole
    if isinstance(whole, json.JSONDecodeError):
        raise PromptFileError(
            f"{name} line {whole.lineno}: not readable JSON ({whole.msg}). Fix it, or give one "
            "prompt per line as .txt."
        ) from whole
    raise PromptFileError(
        f"{name} line 1: not readable JSON ({whole}). Give one list of texts per side."
    ) from whole


class _Lines(list[tuple[str, Any]]):
    """(location, value) pairs of JSON lines."""


def _lists(value: Any) -> set[str]:
    items = value.items() if isinstance(value, dict) else ()
    return {key for key, each in items if isinstance(each, list)}


def _first(text: str) -> str:
    """The first line of YAML that is neither empty nor a comment."""
    lines = (line.strip() for line in split(text))
    return next((line for line in lines if line and line[0] != "#" and line != "---"), "")


def _or_none(line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _yaml(name: str, text: str, called: bool) -> Any:
    if len(text) > MAX_YAML:
        if not called:
            return None
        raise PromptFileError(
            f"{name} has {len(text):,} characters of YAML; the limit is {MAX_YAML:,}. Give JSON."
        )
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise PromptFileError(f"{name} has an alias (*{event.anchor}); write it out.")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_JSON_DEPTH:
                raise yaml.YAMLError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
        value = yaml.load(text, Loader=loader)  # the base loader creates only strings
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, PromptFileError) and called:
            raise
        if not called:
            return None
        mark = getattr(error, "problem_mark", None)
        raise PromptFileError(
            f"{name} line {mark.line + 1 if mark else 1}: not readable YAML "
            f"({getattr(error, 'problem', None) or str(error)[:80]}). Fix it, or give one prompt "
            "per line as .txt."
        ) from error
    value = _plain(value)
    if isinstance(value, dict) and any(isinstance(v, list) for v in value.values()):
        return value
    if isinstance(value, list) and all(isinstance(v, dict) for v in value):
        return value
    # A list of quoted texts is Python's; without quotes it may be a text in brackets.
    quoted = re.match(r"\s*\[\s*'", text)
    return value if (called or quoted) and isinstance(value, list) else None


def _plain(value: Any) -> Any:
    """Turn YAML nulls, which the base loader leaves as strings, into None."""
    if isinstance(value, dict):
        return {str(key)[:200]: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if value in ("", "~", "null", "Null", "NULL") else value


def read_data(lines: Collector, data: Any, picked: Picked | None = None) -> None:
    """Add the prompts of a value from `find_data`: a set, columns, records, texts or pairs.

    Raises:
        PromptFileError: it contains no prompts, or it is unclear which they are.
    """
    if isinstance(data, dict):
        _read_object(lines, data, picked)
    elif isinstance(data, _Lines):
        _read_records(lines, data, picked)
    elif isinstance(data, list):
        _read_records(lines, [(f"item {n}", v) for n, v in enumerate(data, start=1)], picked)
    else:
        raise PromptFileError(f"{lines.name} holds {data!r:.80}; give an object or a list.")


def _read_object(lines: Collector, data: dict[str, Any], picked: Picked | None) -> None:
    for side in SIDES:
        if side in data and not isinstance(data[side], list):
            if set(SIDES) <= set(data) and all(isinstance(data[s], str) for s in SIDES):
                # A single line of JSON lines.
                break
            raise PromptFileError(f"{lines.name}: {side} is {data[side]!r:.80}; it must be a list.")
    lists = {key: value for key, value in data.items() if isinstance(value, list)}
    rest = set(data) - set(lists)
    if not any(lists.values()) and not set(map(role, lists)) & PAIR_NAMES:
        if not lists and set(map(role, data)) & {*PAIR_NAMES, *TEXT_NAMES}:
            _read_records(lines, [("item 1", data)], picked)
            return
        raise PromptFileError(
            f"{lines.name}: its fields are {listed(map(repr, data)) or '(none)'}; a prompt "
            "set has source and target, each a list of texts."
        )
    lines.fields = _fields(data)
    if rest - SET_FIELDS:
        extra = sorted(rest - SET_FIELDS)
        lines.notes.append(f"Skipped {counted(len(extra), 'field')}: {listed(extra)}.")
    sides = {role(key) for key in lists} & PAIR_NAMES
    if len(lists) == 1 and not sides:
        ((key, value),) = lists.items()
        # The Hub's dataset viewer wraps each row in an object.
        rows = [v["row"] if isinstance(v, dict) and isinstance(v.get("row"), dict) else v
                for v in value]  # fmt: skip
        _read_records(lines, [(f"{key} item {n}", v) for n, v in enumerate(rows, 1)], picked)
        return
    if sum(map(len, lists.values())) > MAX_PLACES * 4:
        raise PromptFileError(
            f"{lines.name} has more than {MAX_PLACES * 4} items; that is the limit. Remove some."
        )
    columns = {
        key: [(f"{key} item {n}", v) for n, v in enumerate(value, start=1)]
        for key, value in lists.items()
    }
    if set(SIDES) & set(columns) and picked is None:
        # This is a prompt set, so its other lists are not prompts.
        extra = sorted(set(columns) - set(SIDES))
        if extra:
            lines.notes.append(f"Skipped {counted(len(extra), 'field')}: {listed(extra)}.")
        for side in SIDES:
            for where, value in columns.get(side, ()):
                lines.add(side, value, where)
        return
    read_columns(lines, columns, picked=picked)


def _read_records(lines: Collector, records: list[tuple[str, Any]], picked: Picked | None) -> None:
    """Add texts, pairs of texts, or objects, which are the rows of a table."""
    if records and all(isinstance(r, str) or r is None for _, r in records):
        side = lines.unsaid()
        for where, text in records:
            lines.add(side, text, where)
        return
    if len(records) > MAX_PLACES:
        raise PromptFileError(
            f"{lines.name} has more than {MAX_PLACES} lines or items; that is the limit. "
            "Remove some."
        )
    if records and all(isinstance(r, list) and len(r) == 2 for _, r in records):
        columns = {f"column {n + 1}": [(where, r[n]) for where, r in records] for n in (0, 1)}
        read_columns(lines, columns, named=False, picked=picked)
        return
    rows = [(where, {"prompt": r} if isinstance(r, str) else r) for where, r in records]
    names: dict[str, None] = {}
    for where, row in rows:
        if not isinstance(row, dict) or not (
            any(isinstance(v, str) for v in row.values())
            or set(map(role, row)) & {*PAIR_NAMES, *TEXT_NAMES}
        ):
            raise PromptFileError(
                f"{lines.name} {where}: is {json.dumps(row)[:80]}; give an object with source "
                "and target, or with prompt and side."
            )
        names.update(dict.fromkeys(row))
        if len(names) > 200:
            raise PromptFileError(f"{lines.name} {where}: more than 200 fields. Keep two.")
    read_columns(
        lines,
        {name: [(where, row.get(name)) for where, row in rows] for name in names},
        picked=picked,
    )


def _fields(data: dict[str, Any]) -> dict[str, str]:
    """The title, concept, modality and license of a set; values that are not texts are dropped."""

    def text(key: str) -> str:
        value = data.get(key)
        return clean(value)[:MAX_TITLE] if isinstance(value, str) and is_whole(value) else ""

    modality = text("modality") if text("modality") in ("text", "image") else ""
    return {
        "title": text("title") or text("name"),
        "concept": text("concept"),
        "modality": modality,
        "license": text("license"),
    }
