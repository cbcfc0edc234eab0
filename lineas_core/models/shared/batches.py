"""Expands the prompts, seeds and strengths of a run: one for all, one each, or a grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lineas_core.errors import ConfigError, PromptError
from lineas_core.maps.steering_map import Steering, SteeringMap, Strength
from lineas_core.system.words import counted

Item = TypeVar("Item")
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class TextGrid:
    """Completions of every prompt at every strength, with the same seed along a row.

    Attributes:
        prompts: the rows.
        strengths: the columns.
        texts: `texts[row][column]`, without the prompt.
    """

    prompts: list[str]
    strengths: list[float]
    texts: list[list[str]]


class Cells(NamedTuple):
    """The samples of a grid, row by row, as arguments of `generate`."""

    prompts: list[str]
    steer: list[tuple[SteeringMap, Strength]]
    seeds: list[int]


def check_listed(prompts: Sequence[Any], *, texts_only: bool = False) -> None:
    """Refuse one text in place of a list, whose letters would count as prompts.

    Args:
        prompts: to check.
        texts_only: also refuse a list of something else, such as pictures.

    Raises:
        ConfigError: `prompts` is a text.
        PromptError: a prompt is no text.
    """
    if isinstance(prompts, str):
        raise ConfigError(f"prompts is the text {prompts[:60]!r}; give a list of texts.")
    for number, prompt in enumerate(prompts, start=1):
        if texts_only and not isinstance(prompt, str):
            raise PromptError(
                f"Prompt {number} is a {type(prompt).__name__}; this model reads only texts."
            )


def cells_of(
    prompts: Sequence[str],
    maps: Sequence[tuple[SteeringMap, float | None]],
    strengths: Sequence[float],
    seed: int | Sequence[int],
) -> Cells:
    """Combine every prompt with every strength; a strength of None in `maps` is swept.

    Raises:
        ConfigError: there are no strengths, or the number of seeds does not match.
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
    """Split items into the rows of a grid."""
    return [list(items[i : i + columns]) for i in range(0, len(items), columns)]


def generators_of(seeds: Iterable[int]) -> list[torch.Generator]:
    """CPU generators, whose streams are the same on every machine."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def seeds_for(seed: int | Sequence[int], count: int) -> list[int]:
    """One seed for each of `count` prompts.

    Raises:
        ConfigError: the number of seeds is not `count`, or one is out of range.
    """
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ConfigError(
            f"{counted(len(seeds), 'seed')} for {counted(count, 'prompt')}; give one, or "
            f"one for each."
        )
    for number in seeds:
        if not 0 <= number <= MAX_SEED:
            raise ConfigError(f"seed is {number}; choose 0 to {MAX_SEED}.")
    return seeds


def rows_twice(maps: Steering, part: str) -> list[tuple[SteeringMap, Strength]]:
    """Maps for a network of a pipeline that runs every sample twice in one batch.

    Such is the denoiser under classifier-free guidance: all samples with their prompts, and all
    without. The text encoders and the decoder see each sample once.

    Args:
        maps: (map, strength) pairs; a strength may be a tensor of one value per sample.
        part: the network's name, with which its sites begin.
    """
    split: list[tuple[SteeringMap, Strength]] = []
    for smap, strength in maps:
        if not (isinstance(strength, Tensor) and strength.ndim):
            split.append((smap, strength))
            continue
        for inside, each in ((True, strength.repeat(2)), (False, strength)):
            sites = {
                name: affine
                for name, affine in smap.sites.items()
                if name.startswith(f"{part}.") == inside
            }
            if sites:
                bounds = {name: b for name, b in smap.bounds.items() if name in sites}
                split.append((SteeringMap(sites, smap.info, bounds), each))
    return split


def rows_of(maps: Steering, part: Sequence[int], count: int) -> list[tuple[SteeringMap, Strength]]:
    """The (map, strength) pairs for some of `count` samples, slicing per-sample strengths.

    Raises:
        ConfigError: a map has several strengths, but not `count` of them.
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
