"""Rows of the Studio's database as dataclasses, and the encoding of their fields as columns."""

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
from lineas_core.methods.names import DEFAULT_METHOD, STEPWISE
from lineas_core.prompts.prompt_set import PromptSet

Status = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Phase = Literal["", "loading", "training", "checking"]
TERMINAL: frozenset[Status] = frozenset({"done", "failed", "cancelled"})
UNFINISHED: frozenset[Status] = frozenset({"queued", "running", "interrupted"})


@dataclass(frozen=True)
class JobRow:
    """A snapshot of a training job. Times are seconds since 1970, 0.0 if not yet reached.

    Attributes:
        id: a random, unguessable id.
        owner: owner of the job and of its map.
        seq: incremented by every change, so that a page can drop stale updates.
        status: done, failed and cancelled are final.
        phase: what a running job is doing.
        model: the name the model is loaded by.
        method: a key of `lineas_core.methods.names.TITLES`.
        title: display title.
        prompts: the source and target prompts.
        changes: settings that differ from the model's shipped ones.
        preview_prompt: prompt of the preview frames.
        step: number of steps done.
        steps: total number of steps.
        loss: loss before the latest step.
        seconds: time spent training.
        seconds_left: estimated time until the last step.
        support: share of the coordinates that the map changes.
        losses: loss before each step so far.
        supports: support after each step so far.
        attempts: number of times the job was started since its latest checkpoint, without those
            that ended as the program was stopped or killed.
        interruptions: number of the latter.
        parent: id of the job that this one retries, or "".
        map_id: id of the saved map, or ""; a failed or cancelled job may have one.
        message: why it failed, or why it is queued again.
        health: health report of the map.
        frames: number of preview frames so far.
        stopping: whether the job was asked to stop.
        created: when the job was submitted.
        started: when the job was first started.
        finished: when the job reached a final status; 0.0, and so falsy, until then.
    """

    id: str
    owner: str
    model: str
    prompts: PromptSet
    method: str = DEFAULT_METHOD
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
    interruptions: int = 0
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
        """Whether the method trains step by step; other methods fit once, counted as one step."""
        return self.method in STEPWISE


@dataclass(frozen=True)
class MapRow:
    """Metadata of a map, available without reading its file.

    Attributes:
        id: a random, unguessable id; the stem of the map's file name.
        owner: the visitor who made it; "gallery" for maps that ship.
        title: display title.
        tags: free-form tags.
        model: name of the model it was trained for.
        modality: "text" or "image".
        method: the training method.
        name: name of its prompt set.
        concept: what it steers towards.
        digest: `SteeringMap.digest` of the map.
        support: share of the coordinates that it changes.
        recommended: the strength to start with.
        health: health report of the map.
        prompts: the prompts it was trained on.
        config: the settings it was trained with.
        losses: loss before each step of its training.
        job: id of the job that made it, or "".
        created: creation time in seconds since 1970.
        deleted: deletion time in seconds since 1970, or None.
        seed: the training seed.
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
        """The strength at which the map is first switched on: the recommended one, or 1."""
        return 1.0 if self.recommended is None else self.recommended


@dataclass(frozen=True)
class PromptRow:
    """A prompt set saved by a visitor. Times are seconds since 1970."""

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
    """Validate the points of a calibration that were read from JSON.

    Raises:
        ConfigError: they are not a valid calibration.
    """
    return Calibration(tuple((a, b) for a, b in points)).points


class _Codec(NamedTuple):
    """Conversion of a value to its SQLite column and back; None bypasses both and is NULL."""

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
# Ids of other rows: a missing one is "" in Python, and NULL in the database for its foreign keys.
_REFERENCES = frozenset({"parent", "map_id", "job"})
# Columns that were added later, and their values in records without them.
_LATER: Mapping[str, Any] = {"calibration": (), "interruptions": 0}
_IN_BYTES = frozenset({"losses", "supports"})
# Exceptions that `decode` may raise on a corrupt record.
UNREADABLE = (
    AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, struct.error,
    LineasError,
)  # fmt: skip


def encode(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Encode fields of a row as SQLite column values."""
    columns: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _REFERENCES:
            value = value or None
        if value is not None and name in _CODECS:
            value = _CODECS[name].encode(value)
        columns[name] = value
    return columns


def decode(kind: type[Row], record: sqlite3.Row | Mapping[str, Any]) -> Row:
    """Decode a database record into a row."""
    fields: dict[str, Any] = {}
    for name in kind.__dataclass_fields__:
        # Records of earlier versions lack columns that were added later, and are not rewritten.
        value = None if name in _LATER and name not in record.keys() else record[name]  # noqa: SIM118
        if value is not None and name in _CODECS:
            value = _CODECS[name].decode(value)
        if value is None and name in _REFERENCES:
            value = ""
        if value is None and name in _LATER:
            value = _LATER[name]
        fields[name] = value
    return kind(**fields)


def row_to_json(row: JobRow | MapRow) -> str:
    """The row as a JSON object, the contents of a sidecar."""
    columns = encode(fields_of(row))
    return json.dumps({n: v.hex() if isinstance(v, bytes) else v for n, v in columns.items()})


def row_from_json(kind: type[Row], text: str) -> Row:
    """Parse the row that `row_to_json` wrote.

    Raises:
        ValueError: the text is not a row of that kind.
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
    """The row's fields by name; unlike `dataclasses.asdict`, values are not converted."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
