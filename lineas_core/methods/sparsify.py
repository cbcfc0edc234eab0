"""The sparsest map that does nearly what the dense one does.

The penalty's weight gamma is no number that a person can choose: the same one leaves all of a map
on one model and nothing on another. What can be chosen is how much of the effect is to be kept.

While a map is learned, every step takes something from the loss, and each neuron's part of it is
its change times its slope: gradients integrated along the way (Sundararajan, Taly and Yan 2017,
there along a straight line). With a price of gamma a neuron, those are worth theirs whose parts
add up to more than gamma. So the dense map is thinned out: the worthiest half of its neurons goes
on learning without the others, then the worthiest of those, until too little is kept. Neurons
that do the same work share its worth; once some of them are gone, what the rest is worth grows,
which one cut to the last few could not see (gradual pruning, Zhu and Gupta 2017).

The paper's penalty is here too, as a path of falling gammas

    gamma_max > gamma_max * ratio > gamma_max * ratio^2 > ...

from the identity, which is the solution at gamma_max, each point started at the one before
(pathwise descent, Friedman et al. 2010). It shrinks what it leaves, and so falls short of what its
neurons could do.

The effect of a map is the share of the held-out distance to the target that it closes,
1 - Delta(steered) / Delta(untouched), with Delta summed over sites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.activations import execution_order, pooled_activations, pooled_forward
from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.errors import ConfigError, TrainingError
from lineas_core.maps.steering_map import Affine, BatchAffine, SteeringMap
from lineas_core.numerics.proximal_gradient import Place, SparsePenalty, descend, largest_gamma
from lineas_core.numerics.transport import delta
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steerable import Inputs, Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.provenance import describe_map
from lineas_core.training.trainer import Trainer

# Shares of the neurons: each round leaves half of those before.
SUPPORTS = (0.4, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class PathConfig:
    """How the penalty's gammas are walked.

    Args:
        points: gammas at most, >= 1.
        ratio: of each to the one before, in (0, 1).
        steps: proximal gradient steps at each, >= 1.

    Raises:
        ConfigError: a value is out of range; the message names it.
    """

    points: int = 15
    ratio: float = 0.6
    steps: int = 5

    def __post_init__(self) -> None:
        checks = {
            "points": (self.points >= 1, "1 or more"),
            "ratio": (0 < self.ratio < 1, "between 0 and 1"),
            "steps": (self.steps >= 1, "1 or more"),
        }
        for name, (fine, expected) in checks.items():
            if not fine:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {expected}.")


@dataclass(frozen=True, eq=False)
class SparsePoint:
    """A map, how it was made sparse, and what it does.

    Attributes:
        gamma: of the penalty, or the price of a neuron; 0 is the dense map.
        map: what was learned.
        effect: share of the held-out distance to the target that it closes; 1 is all of it.
    """

    gamma: float
    map: SteeringMap
    effect: float

    @property
    def support(self) -> float:
        """Share of coordinates that the map changes."""
        return self.map.support()


@dataclass(frozen=True, eq=False)
class Valued:
    """A map, and what each of its neurons was worth.

    Attributes:
        point: the map.
        worth: what a neuron's steps took from the training loss, by site; -inf for a neuron that
            was not learned.
    """

    point: SparsePoint
    worth: Mapping[str, Float[Tensor, " _"]]


@dataclass(frozen=True, eq=False)
class SparsePath:
    """The maps of a path, and the one that its budget chooses.

    Attributes:
        points: from the largest support down.
        dense: the map that they are measured by.
        kept: share of the dense map's effect that the chosen one must have.
    """

    points: tuple[SparsePoint, ...]
    dense: SparsePoint
    kept: float

    @property
    def chosen(self) -> SparsePoint:
        """The map of least support with enough effect: the dense one where no other has it."""
        enough = [p for p in self.points if p.effect >= self.kept * self.dense.effect]
        return min([*enough, self.dense], key=lambda point: point.support)


def sparsest(
    model: Steerable,
    prompts: PromptSet,
    config: TrainConfig | None = None,
    *,
    kept: float = 0.95,
    supports: Sequence[float] = SUPPORTS,
    on_point: Callable[[SparsePoint], object] | None = None,
) -> SparsePath:
    """The sparsest map that keeps `kept` of the dense map's effect on held-out prompts.

    It ends at the first that does not, or at the least of `supports`.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: settings of the dense map, with gamma 0; the model's shipped ones by default. Each
            round after it takes half its steps.
        kept: share of the effect, in (0, 1].
        supports: shares of the neurons that are tried, in (0, 1); the largest comes first.
        on_point: called with every point.

    Raises:
        ConfigError: a value is out of range, or nothing is held out.
        TrainingError: the dense map has no effect that could be kept.
    """
    if not 0 < kept <= 1:
        raise ConfigError(f"kept is {kept!r}; it must be above 0 and at most 1.")
    if not supports or any(not 0 < share < 1 for share in supports):
        raise ConfigError(f"supports is {list(supports)!r}; give shares between 0 and 1.")
    config = config or TrainConfig.for_model(model)
    if config.gamma:
        raise ConfigError(f"gamma is {config.gamma:g}; the dense map is that of gamma 0.")
    fitter = SparseFitter(model, prompts, config)
    learned = fitter.learn()
    whole = learned.point
    if whole.effect <= 0:
        raise TrainingError(
            f"The dense map closes {whole.effect:.0%} of the held-out distance; there is no "
            "effect to keep. Train it for more steps, or on more prompts."
        )
    points: list[SparsePoint] = []
    for support in sorted(set(supports), reverse=True):
        learned = fitter.thin_out(learned, support)
        points.append(learned.point)
        if on_point:
            on_point(learned.point)
        if learned.point.effect < kept * whole.effect:
            break
    return SparsePath(tuple(points), whole, kept)


class SparseFitter:
    """Learns sparse maps on the training prompts, and measures maps on those held out.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: see `sparsest`.

    Raises:
        ConfigError: nothing is held out or penalised.
        SiteError: the sites match nothing, or do not run once a pass.
    """

    def __init__(self, model: Steerable, prompts: PromptSet, config: TrainConfig) -> None:
        if not config.holdout:
            raise ConfigError("holdout is 0; the effect is measured on held-out prompts: give 0.2.")
        if not config.l1 + config.group:
            raise ConfigError("l1 and group are 0; set one above 0, or nothing is penalised.")
        self._model, self._prompts, self._config = model, prompts, config
        training, held_out = prompts.split(config.holdout, config.seed)
        self._source = model.prepare(training.source)
        self.sites = execution_order(
            model, self._source, model.sites(config.sites or model.default_sites)
        )
        self._aims = self._activations(model.prepare(training.target))
        self._held_out = TargetDistance(
            model,
            held_out,
            self.sites,
            pooling=config.pooling,
            batch_size=config.batch_size,
        )

    def effect(self, smap: SteeringMap) -> float:
        """Share of the held-out distance that a map closes, over the sites of the settings."""
        return 1 - self._held_out.left(smap)[0]

    def identity(self) -> list[Float[Tensor, " _"]]:
        """The parts of the map that changes nothing: w - 1 and b of each site, in order."""
        return [torch.zeros_like(self._aims[site][0]) for site in self.sites for _ in range(2)]

    def loss(self, parts: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, ""]:
        """Delta summed over sites on all training prompts, differentiable in the parts."""
        maps = {
            site: BatchAffine(gain, shift)
            for site, gain, shift in zip(self.sites, parts[::2], parts[1::2], strict=True)
        }
        # Sorting needs all prompts at once; memory need not.
        found = pooled_forward(
            self._model,
            self._source,
            self.sites,
            pooling=self._config.pooling,
            maps=maps,
            rows_at_once=self._config.batch_size,
        )
        terms = [delta(found[s], self._aims[s]).mean() for s in self.sites]
        return torch.stack(terms).sum()

    def gamma_max(self) -> float:
        """The gamma at and above which the map stays the identity."""
        here = Place.at(self.loss, self.identity())
        return largest_gamma(here.gradient, self._config.l1, self._config.group)

    def path(self, path: PathConfig) -> Iterator[SparsePoint]:
        """The penalised maps from the largest gamma down, each learned when it is asked for."""
        here = Place.at(self.loss, self.identity())
        gamma = largest_gamma(here.gradient, self._config.l1, self._config.group)
        for _ in range(path.points):
            gamma *= path.ratio
            penalty = SparsePenalty(gamma, self._config.l1, self._config.group)
            here = descend(self.loss, here, penalty, steps=path.steps)
            yield self._point(self._affines(here.values), gamma)

    def learn(self) -> Valued:
        """The dense map."""
        trainer = Trainer(self._model, self._prompts, replace(self._config, gamma=0.0))
        worth = {site: torch.zeros_like(affine.scale) for site, affine in trainer.map.sites.items()}
        return self._learn(trainer, worth, 0.0)

    def thin_out(self, learned: Valued, support: float) -> Valued:
        """The worthiest neurons of a map go on learning for half as many steps as the dense map.

        Args:
            learned: the map.
            support: how many of all neurons, of 1, and fewer than it has; at least one.
        """
        count = max(round(support * sum(map(len, learned.worth.values()))), 1)
        gamma = torch.cat([*learned.worth.values()]).topk(count).values[-1]
        sites, worth = {}, {}
        for site, affine in learned.point.map.sites.items():
            worthy = learned.worth[site] >= gamma
            scale = torch.where(worthy, affine.scale, 1.0)
            sites[site] = Affine(scale, torch.where(worthy, affine.shift, 0.0))
            worth[site] = learned.worth[site].where(worthy, -torch.inf)
        left = SteeringMap(sites)
        config = replace(self._config, gamma=0.0, steps=max(self._config.steps // 2, 1))
        trainer = Trainer(self._model, self._prompts, config, start=left, support=left)
        return self._learn(trainer, worth, float(gamma))

    def _learn(self, trainer: Trainer, worth: dict[str, Tensor], gamma: float) -> Valued:
        """Train to the end, and add what each neuron's steps take to `worth`."""
        before = trainer.map.sites
        for _ in trainer.run():
            after = trainer.map.sites
            for site, gradient in trainer.gradients.items():
                worth[site] -= gradient.gain * (after[site].scale - before[site].scale)
                worth[site] -= gradient.shift * (after[site].shift - before[site].shift)
            before = after
        return Valued(self._point(trainer.map.sites, gamma), worth)

    def _point(self, sites: Mapping[str, Affine], gamma: float) -> SparsePoint:
        config = replace(self._config, gamma=gamma)
        info = describe_map(self._model, self._prompts, "lineas-sparse", config)
        smap = SteeringMap(dict(sites), info)
        return SparsePoint(gamma, smap, self.effect(smap))

    def _affines(self, parts: Sequence[Tensor]) -> dict[str, Affine]:
        return {
            site: BatchAffine(gain, shift).affine()
            for site, gain, shift in zip(self.sites, parts[::2], parts[1::2], strict=True)
        }

    def _activations(self, inputs: Inputs) -> dict[str, Tensor]:
        return pooled_activations(
            self._model,
            inputs,
            self.sites,
            pooling=self._config.pooling,
            batch_size=self._config.batch_size,
        )
