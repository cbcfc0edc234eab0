"""Seeds and strengths of a run over prompts: one for all of them, or one for each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lineas_core.errors import ConfigError
from lineas_core.maps import SteeringMap, Strength
from lineas_core.steering import Steering


def seeds_for(seed: int | Sequence[int], count: int) -> list[int]:
    """One seed for each of `count` prompts.

    Raises:
        ConfigError: there are several, and not `count`.
    """
    if isinstance(seed, int):
        return [seed] * count
    if len(seed) != count:
        raise ConfigError(f"{len(seed)} seeds for {count} prompts; give one, or one for each.")
    return list(seed)


def rows_of(maps: Steering, part: slice, count: int) -> list[tuple[SteeringMap, Strength]]:
    """The pairs for some of `count` samples: strengths that are per sample are cut down to them.

    Raises:
        ConfigError: a map has several strengths, and not `count`.
    """
    cut: list[tuple[SteeringMap, Strength]] = []
    for smap, strength in maps:
        if isinstance(strength, Tensor) and strength.ndim:
            if len(strength) != count:
                raise ConfigError(
                    f"{len(strength)} strengths for {count} prompts; give one, or one for each."
                )
            strength = strength[part]
        cut.append((smap, strength))
    return cut
