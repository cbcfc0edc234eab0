"""LinEAS: learn the maps of all sites jointly, end to end, under a distributional loss.

    min over (w, b)   sum over sites l of  mean over coordinates of
                      Delta(pooled activations of the steered source, of the untouched target)
                      + R(w, b)

(LinEAS, Eq. 4, with the penalty of `numerics/proximal.py`.) The model's weights stay frozen;
gradients flow through it from every site into the maps of all earlier sites. With several
processes, each runs its share of the prompts (`distributed.py`) and the resulting map is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lineas_core.activations import execution_order, pooled_activations, pooled_forward
from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.numerics.transport import delta
from lineas_core.steerable import Samples, Steerable
from lineas_core.system.devices import on_one_device
from lineas_core.training.config import TrainConfig
from lineas_core.training.distributed import ranks
from lineas_core.training.loop import TrainingLoop
from lineas_core.training.memory import find_fit
from lineas_core.training.provenance import describe_map
from lineas_core.training.rows import Rows, side_by_side, taken
from lineas_core.training.state import TrainState
from lineas_core.training.units import units_of


class Trainer(TrainingLoop):
    """One LinEAS run, step by step. `state` may be saved after any step.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings; the model's shipped ones by default.
        state: of an earlier run with the same prompts and settings, to resume from.
        start: the initial map, for the same sites; the identity by default.
        support: a map for the same sites; only neurons that it changes are trained. All by default.

    Raises:
        ConfigError: `state` belongs to other prompts or settings, or `start` or `support` to
            other sites; or there are more processes than prompts.
        SiteError: the sites match no module, or do not run exactly once per forward pass.
    """

    method: ClassVar[str] = "lineas"

    def __init__(
        self,
        model: Steerable,
        prompts: Samples,
        config: TrainConfig | None = None,
        state: TrainState | None = None,
        *,
        start: SteeringMap | None = None,
        support: SteeringMap | None = None,
    ) -> None:
        self.model, self.prompts = model, prompts
        config = config or TrainConfig.for_model(model, self.method)
        self.train_prompts, self.held_out = prompts.split(config.holdout, config.seed)
        self._source = model.prepare(self.train_prompts.source)
        target = model.prepare(self.train_prompts.target)
        pattern = config.sites or model.default_sites
        self.sites = execution_order(model, self._source, model.sites(pattern))
        pooling, size, together = config.pooling, config.batch_size, ranks()
        own = target.rows(together.share(range(len(target))))
        found = pooled_activations(model, own, self.sites, pooling=pooling, batch_size=size)
        device = found[self.sites[0]].device
        identity = SteeringMap.identity({name: z.shape[1] for name, z in found.items()})
        self._widths = list(identity.widths.values())
        # Concatenate all sites, so that one sort handles them all.
        self._target = together.gathered(side_by_side(found, self.sites), len(target))
        self._whole = self._target.sort(dim=0).values if len(target) <= size else None
        self._given: dict[str, str] = {}
        for role, given in (("start", start), ("support", support)):
            if given is None:
                continue
            if given.fingerprint() != identity.fingerprint():
                raise ConfigError(
                    f"{role} has other sites than this run; give a map of the same ones."
                )
            self._given[role] = given.digest()
        trained = None
        if support is not None:
            trained = {name: a.changed.to(device) for name, a in support.sites.items()}
        units = None
        if config.rate is None:
            own = self._source.rows(together.share(range(len(self._source))))
            found = pooled_activations(model, own, self.sites, pooling=pooling, batch_size=size)
            source = together.gathered(side_by_side(found, self.sites), len(self._source))
            units = units_of(source, self._target, self._widths)
        self._weights = None if units is None else units.weights
        super().__init__(
            start or identity,
            device,
            config,
            trained=trained,
            units=None if units is None else units.steps,
            graph=on_one_device(model.module),
        )
        run = partial(pooled_forward, pooling=pooling)
        self._fit = find_fit(model, self._source, self.sites, self.params, run, batch_size=size)
        if state is not None:
            self.restore(state)

    @property
    def run_id(self) -> Mapping[str, Any]:
        """The model, prompts, method, settings and sites."""
        return {
            "model": self.model.id,
            "method": self.method,
            "prompts": self.prompts.hash(),
            "config": asdict(self.config),
            "sites": self.sites,
            **self._given,
        }

    @property
    def map(self) -> SteeringMap:
        """The current map."""
        info = describe_map(self.model, self.prompts, self.method, self.config)
        return SteeringMap({name: a.affine() for name, a in self.params.items()}, info)

    @property
    def counts(self) -> Sequence[int]:
        """Number of source and of target prompts in training."""
        return len(self._source), len(self._target)

    def minibatch_losses(self, drawn: Sequence[Rows]) -> Tensor:
        """Delta between steered source and target on a minibatch, for each site."""
        source, target = drawn
        found = pooled_forward(
            self.model,
            self._source.rows(self.ranks.share(source)),
            self.sites,
            pooling=self.config.pooling,
            maps=self.params,
            rows_at_once=self._fit.rows,
            layers=self._fit.layers,
        )
        steered = self.ranks.gathered(side_by_side(found, self.sites), len(source))
        if self._whole is not None:
            distances = delta(steered, self._whole, v_sorted=True)
        else:
            distances = delta(steered, taken(self._target, target))
        if self._weights is not None:
            distances = distances * self._weights
        return torch.stack([part.mean() for part in distances.split(self._widths)])
