"""Refine the composition of independently learned maps, on all their targets at once.

When independently learned maps are applied together, each receives activations that the others
have already changed, which it was not trained for. Refinement, which is in neither paper, starts
from their composition and trains it, end to end, on

    min over (w, b)   sum over sites l of  mean over coordinates of
                      mean over k of Delta(T(sources), y_k)   + R(w, b)

    y_k = pooled activations of target k, steered by all maps except the k-th

A text about one concept that is steered towards the others has all concepts, so each y_k is a
sample of the joint target, for which there is no prompt set. The optimum of the mean over k is the
average of the quantiles of these samples: it keeps their common spread, whereas pooling the samples
would add the distance between them to the spread. Delta and R are those of `training/trainer.py`.
`evaluation/tables/composition.py` compares refined maps with the plain composition.
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
from lineas_core.steerable import Samples, Steerable
from lineas_core.steering import steer
from lineas_core.system.devices import on_one_device
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent
from lineas_core.training.loop import TrainingLoop
from lineas_core.training.provenance import describe_map
from lineas_core.training.rows import Rows, side_by_side, taken
from lineas_core.training.units import Units, units_of

MapsWithPrompts = Sequence[tuple[SteeringMap, Samples]]


def refine(
    model: Steerable,
    maps: MapsWithPrompts,
    config: TrainConfig,
    *,
    on_event: Callable[[StepEvent], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SteeringMap:
    """Train the composition of `maps` so that it produces all their concepts at once.

        loss = sum over sites of mean over coordinates and k of Delta(T(sources), y_k)
        y_k  = target k, steered by all maps except the k-th

    See the module's docstring. For a single map, y_1 is its own target, so refinement continues
    LinEAS training from that map.

    Args:
        model: its weights are not changed.
        maps: each with the prompts it was learned from, first applied first. Their source prompts
            are combined, without duplicates.
        config: rate, steps, optimizer, batch_size, gamma, l1, group, prox_step, pooling, holdout
            and seed are used; the sites are those of the maps. The composition is a good start,
            so a fraction of the steps of training is enough.
        on_event: called with a `StepEvent` after each step.
        should_stop: called before each step; if it returns True, the map so far is returned.

    Returns:
        One map that replaces all of `maps`; strength 1 is their full effect.

    Raises:
        ConfigError: there are no maps.
        MapError: the maps do not fit each other.
        SiteError: the maps were made for another model.
        TrainingError: the loss is not finite, or more than ten times the first loss.
    """
    refinement = Refinement(model, maps, config)
    for event in refinement.run(should_stop):
        if on_event:
            on_event(event)
    return refinement.map


def cross_steered(
    model: Steerable, maps: MapsWithPrompts, sites: Sequence[str], config: TrainConfig
) -> list[dict[str, Float[Tensor, "n _"]]]:
    """The y_k: for each map, activations of its training targets steered by all other maps.

    Args:
        model: its weights are not changed.
        maps: each with its prompts, first applied first.
        sites: in the order in which the model runs them.
        config: pooling, batch_size, holdout and seed are used.
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
    """One refinement run, step by step; see `refine`."""

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
        found = cross_steered(model, maps, self._sites, config)
        # All sites side by side, once and not at every step, so that one sort handles them all.
        self._targets = [side_by_side(y, self._sites) for y in found]
        device = self._targets[0].device
        ordered = SteeringMap({s: start.sites[s] for s in self._sites}, bounds=start.bounds)
        units = self._units_of(ordered, device, config) if config.rate is None else None
        self._weights = None if units is None else units.weights
        super().__init__(
            ordered,
            device,
            config,
            units=None if units is None else units.steps,
            graph=on_one_device(model.module),
        )

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
        """The current map, named after all composed maps."""
        own = [describe_map(self._model, p, "refined", self.config) for _, p in self._maps]
        info = replace(
            own[0],
            name=" + ".join(info.name for info in own),
            concept=" + ".join(info.concept for info in own),
            prompt_hash=" + ".join(info.prompt_hash for info in own),
        )
        return SteeringMap({name: a.affine() for name, a in self.params.items()}, info)

    @property
    def counts(self) -> Sequence[int]:
        """Number of source prompts, then of the targets of each map."""
        return len(self._source), *map(len, self._targets)

    def minibatch_losses(self, drawn: Sequence[Rows]) -> Tensor:
        """For each site, Delta between the steered sources and y_k, averaged over k."""
        found = pooled_forward(
            self._model,
            self._source.rows(drawn[0]),
            self._sites,
            pooling=self.config.pooling,
            maps=self.params,
        )
        steered = side_by_side(found, self._sites)
        distances = torch.stack(
            [
                delta(steered, taken(target, rows))
                for target, rows in zip(self._targets, drawn[1:], strict=True)
            ]
        ).mean(dim=0)
        if self._weights is not None:
            distances = distances * self._weights
        widths = [found[site].shape[1] for site in self._sites]
        return torch.stack([part.mean() for part in distances.split(widths)])

    def _units_of(self, start: SteeringMap, device: torch.device, config: TrainConfig) -> Units:
        """Units from the sources under the composition, and all targets together."""
        maps = {name: affine.on(device) for name, affine in start.sites.items()}
        found = pooled_activations(
            self._model,
            self._source,
            self._sites,
            pooling=config.pooling,
            batch_size=config.batch_size,
            maps=maps,
        )
        widths = [found[site].shape[1] for site in self._sites]
        return units_of(side_by_side(found, self._sites), torch.cat(self._targets), widths)
