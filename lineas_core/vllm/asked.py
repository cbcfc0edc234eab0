"""The maps that vLLM was started with, and those that a request asks for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from lineas_core.errors import ConfigError

# Key of vLLM's `additional_config`: name -> file of a map.
MAPS = "lineas"
# Key of `SamplingParams.extra_args`: a list of NAME or NAME@STRENGTH. vLLM's server takes no
# objects there.
STEERING = "steering"

# Names of maps and their strengths, first applied first.
Asked = tuple[tuple[str, float], ...]


def files_of(additional_config: Any) -> dict[str, str]:
    """Name -> file of the maps that vLLM was started with; none where it was started without.

    Raises:
        ConfigError: it is not such a table.
    """
    files = additional_config.get(MAPS, {}) if isinstance(additional_config, Mapping) else {}
    if not (isinstance(files, Mapping) and all(isinstance(f, str) for f in files.values())):
        raise ConfigError(
            f"{MAPS} in additional_config is {files!r:.80}; give names with files, as in "
            f'{{"{MAPS}": {{"football": "football.safetensors"}}}}.'
        )
    return dict(files)


def asked_of(extra_args: Mapping[str, Any] | None, names: Collection[str]) -> Asked:
    """What a request asks for; a name without a strength stands for strength 1.

    Args:
        extra_args: of its `SamplingParams`.
        names: of the maps that there are.

    Raises:
        ConfigError: it is not a list of known names with finite strengths.
    """
    asked = (extra_args or {}).get(STEERING, [])
    if not (isinstance(asked, list) and all(isinstance(each, str) for each in asked)):
        raise ConfigError(
            f"{STEERING} is {asked!r:.80}; give a list of names with strengths, as in "
            '["football@0.7"].'
        )
    return tuple(_one_of(place, each, names) for place, each in enumerate(asked))


def _one_of(place: int, asked: str, names: Collection[str]) -> tuple[str, float]:
    name, strength = asked, 1.0
    if asked not in names:
        name, _, number = asked.rpartition("@")
        try:
            strength = float(number)
        except ValueError:
            name, strength = asked, 1.0
    if name not in names:
        known = ", ".join(map(repr, names)) or "none; start vLLM with some in additional_config"
        raise ConfigError(f"{STEERING}.{place} is {asked!r:.80}; the maps here are {known}.")
    if not math.isfinite(strength):
        raise ConfigError(f"{STEERING}.{place} is {asked!r}; the strength must be finite.")
    return name, strength
