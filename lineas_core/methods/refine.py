"""Refine the composition of maps that were learned apart, on all their targets at once.

Maps that are learned apart know nothing of each other: put on together, each meets activations
that the others have moved already. Refinement, which is in neither paper, starts at their
composition and trains it, end to end, on

    min over (w, b)   sum over sites l of  mean over coordinates of
                      mean over k of Delta(T(sources), y_k)   + R(w, b)

    y_k = pooled activations of target k through all the maps but the k-th

A text of one concept that is steered by the maps of the others has all of them, so each y_k is a
sample of the joint target, of which no prompt set has any. The mean over k asks for the quantiles
halfway between these samples: for their common spread, where their union would add the distance
between them. Delta and R are those of `trainer.py`. What refinement does to texts is measured,
beside the plain composition, by `evaluation/composition.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.activations import execution_order, pooled_activations, pooled_forward
from lineas_core.errors import ConfigError, TrainingError
from lineas_core.maps.steering_map import BatchAffine, MapInfo, SteeringMap, compose
from lineas_core.numerics.transport import delta
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steerable import Steerable
from lineas_core.steering import steer
from lineas_core.training.config import TrainConfig
from lineas_core.training.provenance import describe_map
from lineas_core.training.trainer import (
    DIVERGED,
    StepEvent,
    affines_of,
    draw,
    proximal_step,
    rate_at,
)

Learned = Sequence[tuple[SteeringMap, PromptSet]]


def refine(
    model: Steerable,
    maps: Learned,
    config: TrainConfig,
    *,
    on_event: Callable[[StepEvent], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SteeringMap:
    """Train the composition of `maps` to bring all their concepts at once.

        loss = sum over sites of mean over coordinates and k of Delta(T(sources), y_k)
        y_k  = target k through all the maps but the k-th

    See the module's docstring. For a single map y_1 is its own target, and refinement goes on
    with LinEAS where the map was left.

    Args:
        model: its weights are not changed.
        maps: each with the prompts it was learned from, first applied first. The sources of all
            are steered together, each line once.
        config: rate, steps, optimizer, batch_size, gamma, l1, group, prox_step, pooling, holdout
            and seed are read; the sites are those of the maps. From a good start a fraction of
            the steps of training is enough.
        on_event: called with a `StepEvent` after each step.
        should_stop: asked before each step; the map so far is given.

    Returns:
        One map, to be used in place of all of `maps`; at strength 1 it is their full effect.

    Raises:
        ConfigError: there are no maps.
        MapError: the maps do not fit each other.
        SiteError: the maps were made for another model.
        TrainingError: the loss is not finite, or ten times what it was at first.
    """
    refinement = _Refinement(model, maps, config)
    while len(refinement.losses) < config.steps and not (should_stop and should_stop()):
        event = refinement.step()
        if on_event:
            on_event(event)
    return refinement.map


def cross_steered(
    model: Steerable, maps: Learned, sites: Sequence[str], config: TrainConfig
) -> list[dict[str, Float[Tensor, "n _"]]]:
    """The y_k: for each of `maps`, its training targets' activations through all the others.

    Args:
        model: its weights are not changed.
        maps: each with its prompts, first applied first.
        sites: in the order in which the model runs them.
        config: pooling, batch_size, holdout and seed are read.
    """
    found = []
    for k, (_, prompts) in enumerate(maps):
        training, _ = prompts.split(config.holdout, config.seed)
        inputs = model.prepare(training.target)
        with steer(model, [(smap, 1.0) for j, (smap, _) in enumerate(maps) if j != k]):
            found.append(
                pooled_activations(
                    model, inputs, sites, pooling=config.pooling, batch_size=config.batch_size
                )
            )
    return found


class _Refinement:
    """One run, a step at a time."""

    def __init__(self, model: Steerable, maps: Learned, config: TrainConfig) -> None:
        if not maps:
            raise ConfigError("maps is empty; give at least one map with its prompts.")
        self._model, self._maps, self._config = model, maps, config
        start = compose([(smap, 1.0) for smap, _ in maps])
        lines = [
            line
            for _, prompts in maps
            for line in prompts.split(config.holdout, config.seed)[0].source
        ]
        self._source = model.prepare(list(dict.fromkeys(lines)))
        self._sites = execution_order(model, self._source, list(start.sites))
        self._targets = cross_steered(model, maps, self._sites, config)
        device = self._targets[0][self._sites[0]].device
        self._params = {
            site: BatchAffine(
                (start.sites[site].scale - 1).to(device).requires_grad_(),
                start.sites[site].shift.to(device, copy=True).requires_grad_(),
            )
            for site in self._sites
        }
        flat = [p for affine in self._params.values() for p in affine]
        optimizer = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.AdamW
        self._optimizer: torch.optim.Optimizer = optimizer(flat, lr=config.rate)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._seconds = 0.0
        self.losses: list[float] = []

    @property
    def map(self) -> SteeringMap:
        return SteeringMap(affines_of(self._params), self._info())

    def step(self) -> StepEvent:
        began = time.perf_counter()
        step, steps = len(self.losses), self._config.steps
        terms = self._losses()
        loss = torch.stack(list(terms.values())).sum()
        value = loss.item()
        first = self.losses[0] if self.losses else value
        if not math.isfinite(value) or value > DIVERGED * first:
            raise TrainingError(
                f"The loss of the refinement went from {first:.4g} to {value:.4g} at step "
                f"{step + 1}. Lower the rate (it is {self._config.rate:g}; try "
                f"{self._config.rate / 5:g})."
            )
        rate = rate_at(step, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        proximal_step(self._params, self._config, rate)
        self.losses.append(value)
        self._seconds += time.perf_counter() - began
        return StepEvent(
            step=step + 1,
            steps=steps,
            loss=value,
            loss_by_site={name: term.item() for name, term in terms.items()},
            support=self.map.support(),
            seconds=self._seconds,
            seconds_left=self._seconds / (step + 1) * (steps - step - 1),
        )

    def _losses(self) -> dict[str, Tensor]:
        found = pooled_forward(
            self._model,
            self._source.rows(self._draw(len(self._source))),
            self._sites,
            pooling=self._config.pooling,
            maps=self._params,
        )
        terms = {site: torch.zeros((), device=z.device) for site, z in found.items()}
        for target in self._targets:
            rows = self._draw(len(target[self._sites[0]]))
            for site, z in found.items():
                terms[site] = terms[site] + delta(z, target[site][rows]).mean()
        return {site: term / len(self._targets) for site, term in terms.items()}

    def _draw(self, count: int) -> list[int]:
        return draw(count, self._config.batch_size, self._generator)

    def _info(self) -> MapInfo:
        own = [describe_map(self._model, p, "refined", self._config) for _, p in self._maps]
        return replace(
            own[0],
            name=" + ".join(info.name for info in own),
            concept=" + ".join(info.concept for info in own),
            prompt_hash=" + ".join(info.prompt_hash for info in own),
        )
