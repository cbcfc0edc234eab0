"""Prompts, seeds and strengths of a run: one for all of them, one for each, or a grid of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import Steering, SteeringMap, Strength
from lineas_core.system.words import counted

Item = TypeVar("Item")
LARGEST_SEED = 2**63 - 1


class Cells(NamedTuple):
    """The samples of a grid, row after row, as `generate` takes them."""

    prompts: list[str]
    steer: list[tuple[SteeringMap, Strength]]
    seeds: list[int]


def cells_of(
    prompts: Sequence[str],
    maps: Sequence[tuple[SteeringMap, float | None]],
    strengths: Sequence[float],
    seed: int | Sequence[int],
) -> Cells:
    """Every prompt at every strength; the strength None is the one that is swept.

    Raises:
        ConfigError: there is no strength, or not a seed for each prompt.
    """
    if not strengths:
        raise ConfigError("strengths is empty; give at least one.")
    swept = torch.tensor([float(s) for s in strengths]).repeat(len(prompts))
    return Cells(
        [prompt for prompt in prompts for _ in strengths],
        [(smap, swept if strength is None else strength) for smap, strength in maps],
        [s for s in seeds_for(seed, len(prompts)) for _ in strengths],
    )


def in_rows(items: Sequence[Item], columns: int) -> list[list[Item]]:
    """One list for each row of a grid."""
    return [list(items[i : i + columns]) for i in range(0, len(items), columns)]


def seeds_for(seed: int | Sequence[int], count: int) -> list[int]:
    """One seed for each of `count` prompts.

    Raises:
        ConfigError: there are several, and not `count`; or one is out of range.
    """
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ConfigError(
            f"{counted(len(seeds), 'seed')} for {counted(count, 'prompt')}; give one, or "
            f"one for each."
        )
    for number in seeds:
        if not 0 <= number <= LARGEST_SEED:
            raise ConfigError(f"seed is {number}; choose 0 to {LARGEST_SEED}.")
    return seeds


def rows_of(maps: Steering, part: Sequence[int], count: int) -> list[tuple[SteeringMap, Strength]]:
    """The pairs for some of `count` samples: strengths that are per sample are cut down to them.

    Raises:
        ConfigError: a map has several strengths, and not `count`.
    """
    cut: list[tuple[SteeringMap, Strength]] = []
    for smap, strength in maps:
        if isinstance(strength, Tensor) and strength.ndim:
            if len(strength) != count:
                raise ConfigError(
                    f"{counted(len(strength), 'strength')} for "
                    f"{counted(count, 'prompt')}; give one, or one for each."
                )
            strength = strength[list(part)]
        cut.append((smap, strength))
    return cut
