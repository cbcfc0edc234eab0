"""Rows of the Studio's database as values, and how each field of them is kept in a column."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from lineas_core.diagnostics.report import HealthReport, SiteDeltas
from lineas_core.errors import LineasError
from lineas_core.maps.calibration import Calibration
from lineas_core.methods.names import STEPWISE
from lineas_core.prompts.prompt_set import PromptSet

Status = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Phase = Literal["", "loading", "training", "checking"]
TERMINAL: frozenset[Status] = frozenset({"done", "failed", "cancelled"})
# Of the strength that a map is put on at.
MIN_STRENGTH, MAX_STRENGTH = -1.0, 2.0
UNFINISHED: frozenset[Status] = frozenset({"queued", "running", "interrupted"})


@dataclass(frozen=True)
class JobRow:
    """A training job as it was at one moment. Times are seconds since 1970, 0.0 if not yet.

    Attributes:
        id: cannot be guessed.
        owner: of the job and of its map.
        seq: raised by every change, so that a page can drop stale news.
        status: done, failed and cancelled are for good.
        phase: what a running job does.
        model: the name it is loaded by.
        method: a key of `lineas_core.methods.names.TITLES`.
        title: what people read.
        prompts: the source and target.
        changes: settings that differ from the model's shipped ones.
        preview_prompt: of the frames.
        step: steps done.
        steps: steps in all.
        loss: before the newest step.
        seconds: spent training.
        seconds_left: expected until the last step.
        support: share of the coordinates that the map changes.
        losses: before each step so far.
        supports: after each step so far.
        attempts: how often it was taken up since its newest checkpoint.
        parent: id of the job that this one tries again, or "".
        map_id: of the saved map, or ""; a failed or cancelled job may have one.
        message: why it failed, or why it waits again.
        health: of that map.
        frames: preview frames so far.
        stopping: it was asked to stop.
        created: when it was asked for.
        started: when it was first taken up.
        finished: when it ended for good; false, as a condition, until then.
    """

    id: str
    owner: str
    model: str
    prompts: PromptSet
    method: str = STEPWISE
    seq: int = 1
    status: Status = "queued"
    phase: Phase = ""
    title: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    preview_prompt: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    seconds: float = 0.0
    seconds_left: float = 0.0
    support: float | None = None
    losses: tuple[float, ...] = ()
    supports: tuple[float, ...] = ()
    attempts: int = 0
    parent: str = ""
    map_id: str = ""
    message: str = ""
    health: HealthReport | None = None
    frames: int = 0
    stopping: bool = False
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0

    @property
    def stepwise(self) -> bool:
        """Whether it trains step by step; else it is fitted in one go, which counts as a step."""
        return self.method == STEPWISE


@dataclass(frozen=True)
class MapRow:
    """What is known of a map without reading its file.

    Attributes:
        id: cannot be guessed; the name of the file without its ending.
        owner: who made it; "gallery" for those that ship.
        title: what people read.
        tags: any words.
        model: the name it was made for.
        modality: "text" or "image".
        method: how it was made.
        name: of its prompts.
        concept: what it steers towards.
        digest: of the map (`SteeringMap.digest`).
        support: share of the coordinates that it changes.
        recommended: the strength to start with.
        health: of the map.
        prompts: it was made from.
        config: the settings it was made with.
        losses: before each step of its training.
        job: id of the job that made it, or "".
        created: when, in seconds since 1970.
        deleted: when, or None.
        seed: it was trained with.
        calibration: points of its `Calibration`; () where none was measured.
    """

    id: str
    owner: str
    title: str
    model: str
    modality: Literal["text", "image"]
    digest: str
    support: float
    tags: tuple[str, ...] = ()
    method: str = ""
    name: str = ""
    concept: str = ""
    recommended: float | None = None
    health: HealthReport | None = None
    prompts: PromptSet | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    job: str = ""
    created: float = 0.0
    deleted: float | None = None
    seed: int | None = None
    calibration: tuple[tuple[float, float], ...] = ()

    @property
    def first_strength(self) -> float:
        """The strength that it is put on at: the recommended one, or 1."""
        return 1.0 if self.recommended is None else self.recommended


@dataclass(frozen=True)
class PromptRow:
    """A prompt set that somebody keeps. Times are seconds since 1970."""

    id: str
    owner: str
    prompts: PromptSet
    created: float = 0.0
    deleted: float | None = None


Row = TypeVar("Row", bound=JobRow | MapRow | PromptRow)


def health_to_json(report: HealthReport) -> str:
    """The report as a JSON object."""
    return json.dumps(asdict(report))


def health_from_json(text: str) -> HealthReport:
    """The report that `health_to_json` wrote."""
    raw = json.loads(text)
    surprise, held_out = raw["surprise"], raw["held_out"]
    return HealthReport(
        **{
            **raw,
            "training": SiteDeltas(**raw["training"]),
            "held_out": SiteDeltas(**held_out) if held_out else None,
            "surprise": (surprise[0], surprise[1]) if surprise else None,
        }
    )


def calibration_points(points: Any) -> tuple[tuple[float, float], ...]:
    """The points of a calibration as JSON holds them, checked.

    Raises:
        ConfigError: they are no calibration.
    """
    return Calibration(tuple((a, b) for a, b in points)).points


class _Codec(NamedTuple):
    """Value -> what SQLite keeps, and back. None is NULL without asking."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _pack(values: tuple[float, ...]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def _unpack(data: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(data) // 8}d", data)


_FLOATS = _Codec(_pack, _unpack)
_OBJECT = _Codec(lambda value: json.dumps(dict(value)), json.loads)
_CODECS: Mapping[str, _Codec] = {
    "prompts": _Codec(
        lambda prompts: json.dumps(asdict(prompts), ensure_ascii=False),
        lambda text: PromptSet(**json.loads(text)),
    ),
    "health": _Codec(health_to_json, health_from_json),
    "changes": _OBJECT,
    "config": _OBJECT,
    "tags": _Codec(
        lambda tags: json.dumps(tags, ensure_ascii=False), lambda text: tuple(json.loads(text))
    ),
    "calibration": _Codec(
        lambda points: json.dumps(points) if points else None,
        lambda text: calibration_points(json.loads(text)),
    ),
    "losses": _FLOATS,
    "supports": _FLOATS,
    "stopping": _Codec(int, bool),
}
# Ids of other rows: none is NULL in the database, where it is checked, and "" in Python.
_REFERENCES = frozenset({"parent", "map_id", "job"})
_LATER = frozenset({"calibration"})
_IN_BYTES = frozenset({"losses", "supports"})
# What `decode` raises where a record holds what no version has written.
UNREADABLE = (
    AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, struct.error,
    LineasError,
)  # fmt: skip


def encode(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a row as SQLite keeps them."""
    columns: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _REFERENCES:
            value = value or None
        if value is not None and name in _CODECS:
            value = _CODECS[name].encode(value)
        columns[name] = value
    return columns


def decode(kind: type[Row], record: sqlite3.Row | Mapping[str, Any]) -> Row:
    """The row of a record of its table."""
    fields: dict[str, Any] = {}
    for name in kind.__dataclass_fields__:
        # Records of earlier versions are never written again.
        value = None if name in _LATER and name not in record.keys() else record[name]  # noqa: SIM118
        if value is not None and name in _CODECS:
            value = _CODECS[name].decode(value)
        if value is None and name in _REFERENCES:
            value = ""
        if value is None and name == "calibration":
            value = ()
        fields[name] = value
    return kind(**fields)


def row_to_json(row: JobRow | MapRow) -> str:
    """The row as a JSON object, to be kept beside the file that it is about."""
    columns = encode(fields_of(row))
    return json.dumps({n: v.hex() if isinstance(v, bytes) else v for n, v in columns.items()})


def row_from_json(kind: type[Row], text: str) -> Row:
    """The row that `row_to_json` wrote.

    Raises:
        ValueError: the text is something else.
    """
    try:
        columns = {
            name: bytes.fromhex(value) if name in _IN_BYTES else value
            for name, value in json.loads(text).items()
        }
        return decode(kind, columns)
    except UNREADABLE as error:
        raise ValueError(f"It is no {kind.__name__} ({error!r:.200}).") from error


def fields_of(row: JobRow | MapRow | PromptRow) -> dict[str, Any]:
    """The row's fields by name, its values as they are."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
