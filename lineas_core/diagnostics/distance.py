"""The distance that training minimises, measured on any prompts with any map at any strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lineas_core.activations import pooled_activations
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.numerics.transport import delta
from lineas_core.prompts.prompt_set import Sides
from lineas_core.steerable import Pooling, Steerable
from lineas_core.steering import steer


class TargetDistance:
    """Delta between the steered source and the untouched target, averaged over coordinates.

    Target activations and the distance without a map are computed once, on construction.

    Attributes:
        plain: site -> the distance without a map.

    Args:
        model: its weights are not changed.
        prompts: source and target, both with at least one line.
        sites: in the order in which the model runs them.
        pooling: the same as in training; see `pool`.
        batch_size: prompts per forward pass.
    """

    def __init__(
        self,
        model: Steerable,
        prompts: Sides[Any],
        sites: Sequence[str],
        *,
        pooling: Pooling = "mean",
        batch_size: int = 32,
    ) -> None:
        self._model, self._sites = model, list(sites)
        self._pooling: Pooling = pooling
        self._batch_size = batch_size
        self._count = len(prompts.source)
        self._source = model.prepare(prompts.source)
        target = model.prepare(prompts.target)
        self._target = pooled_activations(
            model, target, self._sites, pooling=pooling, batch_size=batch_size
        )
        self.plain: Mapping[str, float] = self._distances(range(self._count))[0]

    def at(self, smap: SteeringMap, strengths: Sequence[float] = (1.0,)) -> list[dict[str, float]]:
        """For each strength: site -> the distance with the map on."""
        # Run several strengths in one batch: on a large model, a few prompts at several strengths
        # take about as long as at one.
        together = max(1, self._batch_size // self._count)
        found: list[dict[str, float]] = []
        for start in range(0, len(strengths), together):
            part = strengths[start : start + together]
            rows = list(range(self._count)) * len(part)
            each = torch.tensor(part).repeat_interleave(self._count) if len(part) > 1 else part[0]
            with steer(self._model, [(smap, each)]):
                found += self._distances(rows)
        return found

    def left(self, smap: SteeringMap, strengths: Sequence[float] = (1.0,)) -> list[float]:
        """Share of the distance, summed over sites, that remains at each strength.

        `Delta_s / Delta_0`: 0 for a perfect map, 1 for one without effect.
        """
        plain = sum(self.plain.values())
        if not plain:
            return [1.0] * len(strengths)
        return [sum(found.values()) / plain for found in self.at(smap, strengths)]

    def _distances(self, rows: Sequence[int]) -> list[dict[str, float]]:
        """One result per repetition of the source prompts in `rows`, under the current steering."""
        z = pooled_activations(
            self._model,
            self._source.rows(rows),
            self._sites,
            pooling=self._pooling,
            batch_size=self._batch_size,
        )
        return [
            {
                site: float(delta(z[site][i : i + self._count], self._target[site]).mean())
                for site in self._sites
            }
            for i in range(0, len(rows), self._count)
        ]
