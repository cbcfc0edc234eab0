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
between them. Delta and R are those of `training/trainer.py`. What refinement does to texts is
measured, beside the plain composition, by `evaluation/tables/composition.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.activations import execution_order, pooled_activations, pooled_forward
from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap, compose
from lineas_core.numerics.transport import delta
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steerable import Steerable
from lineas_core.steering import steer
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent
from lineas_core.training.loop import TrainingLoop
from lineas_core.training.provenance import describe_map

MapsWithPrompts = Sequence[tuple[SteeringMap, PromptSet]]


def refine(
    model: Steerable,
    maps: MapsWithPrompts,
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
    refinement = Refinement(model, maps, config)
    for event in refinement.run(should_stop):
        if on_event:
            on_event(event)
    return refinement.map


def cross_steered(
    model: Steerable, maps: MapsWithPrompts, sites: Sequence[str], config: TrainConfig
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


class Refinement(TrainingLoop):
    """One run, a step at a time; see `refine`."""

    def __init__(self, model: Steerable, maps: MapsWithPrompts, config: TrainConfig) -> None:
        if not maps:
            raise ConfigError("maps is empty; give at least one map with its prompts.")
        self._model, self._maps = model, maps
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
        super().__init__(SteeringMap({s: start.sites[s] for s in self._sites}), device, config)

    @property
    def run_id(self) -> Mapping[str, Any]:
        """The model, the maps with their prompts, and the settings."""
        return {
            "model": self._model.id,
            "prompts": [prompts.hash() for _, prompts in self._maps],
            "config": asdict(self.config),
            "sites": self._sites,
            "maps": [smap.digest() for smap, _ in self._maps],
        }

    @property
    def map(self) -> SteeringMap:
        """The composition as it is now, under the names of all its maps."""
        own = [describe_map(self._model, p, "refined", self.config) for _, p in self._maps]
        info = replace(
            own[0],
            name=" + ".join(info.name for info in own),
            concept=" + ".join(info.concept for info in own),
            prompt_hash=" + ".join(info.prompt_hash for info in own),
        )
        return SteeringMap({name: a.affine() for name, a in self._params.items()}, info)

    def minibatch_losses(self) -> dict[str, Tensor]:
        """At each site, Delta of the steered sources and each y_k, averaged over k."""
        found = pooled_forward(
            self._model,
            self._source.rows(self.draw(len(self._source))),
            self._sites,
            pooling=self.config.pooling,
            maps=self._params,
        )
        terms = {site: torch.zeros((), device=z.device) for site, z in found.items()}
        for target in self._targets:
            rows = self.draw(len(target[self._sites[0]]))
            for site, z in found.items():
                terms[site] = terms[site] + delta(z, target[site][rows]).mean()
        return {site: term / len(self._targets) for site, term in terms.items()}
