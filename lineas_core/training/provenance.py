"""The provenance of a new map, as stored in its file."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lineas_core.maps.steering_map import MapInfo
from lineas_core.version import __version__

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from lineas_core.steerable import Samples, Steerable


def describe_map(
    model: Steerable, prompts: Samples, method: str, config: DataclassInstance
) -> MapInfo:
    """Model, prompts, method, settings, library version and the current time in UTC."""
    return MapInfo(
        model=model.id,
        method=method,
        name=prompts.name,
        concept=prompts.concept,
        prompt_hash=prompts.hash(),
        config=asdict(config),
        library_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
