"""Find the sparsest map that keeps most of the dense map's effect.

The penalty weight gamma is hard to choose by hand: the same value keeps a whole map on one model
and nothing on another. So the user chooses the share of the effect to keep.

Each training step lowers the loss, and the contribution of a neuron to that decrease is its change
times its gradient. Summed over steps, these are gradients integrated along the training path
(integrated gradients, Sundararajan, Taly and Yan 2017, use a straight line). With a cost of gamma
per neuron, keep the neurons whose accumulated contribution exceeds gamma. The dense map is pruned
in rounds: each round keeps the top half of the neurons and trains them further without the others,
until too little of the effect is left. Redundant neurons share their contribution; once some of
them are pruned, that of the others grows. Pruning to the last few in one cut would miss this
(gradual pruning, Zhu and Gupta 2017).

The paper's penalty is implemented too, as a path of decreasing gammas

    gamma_max > gamma_max * ratio > gamma_max * ratio^2 > ...

from the identity, which is the solution at gamma_max; each point starts from the previous one
(pathwise descent, Friedman et al. 2010). The penalty also shrinks the neurons that it keeps, so
these maps have less effect than their neurons could have.

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
from lineas_core.numerics.proximal_gradient import (
    Iterate,
    SparsePenalty,
    largest_gamma,
    proximal_gradient_descent,
)
from lineas_core.numerics.transport import delta
from lineas_core.steerable import Inputs, Samples, Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.provenance import describe_map
from lineas_core.training.trainer import Trainer

# Share of the neurons kept after each round; each keeps half as many as the one before.
SUPPORTS = (0.4, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class PathConfig:
    """Settings of the regularisation path.

    Args:
        points: number of gammas, >= 1.
        ratio: of each gamma to the one before, in (0, 1).
        steps: maximum number of proximal gradient steps at each, >= 1.

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
    """A map with its gamma and its effect.

    Attributes:
        gamma: weight of the penalty, or the pruning threshold; 0 for the dense map.
        map: the learned map.
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
class ScoredMap:
    """A map with the contribution of each neuron.

    Attributes:
        point: the map.
        contributions: site -> how much each neuron's steps lowered the training loss; -inf for
            pruned neurons.
    """

    point: SparsePoint
    contributions: Mapping[str, Float[Tensor, " _"]]


@dataclass(frozen=True, eq=False)
class SparsePath:
    """Maps of decreasing support, and the one chosen by its effect.

    Attributes:
        points: from the largest support down.
        dense: the dense map, whose effect is the reference.
        kept: share of the dense map's effect that the chosen map must reach.
    """

    points: tuple[SparsePoint, ...]
    dense: SparsePoint
    kept: float

    @property
    def chosen(self) -> SparsePoint:
        """The map with the smallest support that has enough effect; the dense one if none has."""
        enough = [p for p in self.points if p.effect >= self.kept * self.dense.effect]
        return min([*enough, self.dense], key=lambda point: point.support)


def sparsest(
    model: Steerable,
    prompts: Samples,
    config: TrainConfig | None = None,
    *,
    kept: float = 0.95,
    supports: Sequence[float] = SUPPORTS,
    on_point: Callable[[SparsePoint], object] | None = None,
) -> SparsePath:
    """The sparsest map that keeps `kept` of the dense map's effect on held-out prompts.

    Ends at the first map that does not, or at the smallest of `supports`.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: settings of the dense map, with gamma 0; the model's shipped ones by default. Each
            pruning round trains for half as many steps.
        kept: share of the effect to keep, in (0, 1].
        supports: shares of the neurons to try, in (0, 1); the largest is tried first.
        on_point: called with every point.

    Raises:
        ConfigError: a value is out of range, or nothing is held out.
        TrainingError: the dense map has no effect.
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
    dense = learned.point
    if dense.effect <= 0:
        raise TrainingError(
            f"The dense map closes {dense.effect:.0%} of the held-out distance; there is no "
            "effect to keep. Train it for more steps, or on more prompts."
        )
    points: list[SparsePoint] = []
    for support in sorted(set(supports), reverse=True):
        learned = fitter.prune(learned, support)
        points.append(learned.point)
        if on_point:
            on_point(learned.point)
        if learned.point.effect < kept * dense.effect:
            break
    return SparsePath(tuple(points), dense, kept)


class SparseFitter:
    """Trains sparse maps on the training prompts and measures them on the held-out prompts.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: see `sparsest`.

    Raises:
        ConfigError: no prompts are held out, or l1 and group are both 0.
        SiteError: the sites match no module, or do not run exactly once per forward pass.
    """

    def __init__(self, model: Steerable, prompts: Samples, config: TrainConfig) -> None:
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
        self._target = self._activations(model.prepare(training.target))
        self._held_out = TargetDistance(
            model,
            held_out,
            self.sites,
            pooling=config.pooling,
            batch_size=config.batch_size,
        )

    def effect(self, smap: SteeringMap) -> float:
        """Share of the held-out distance, summed over the configured sites, that a map closes."""
        return 1 - self._held_out.left(smap)[0]

    def identity(self) -> list[Float[Tensor, " _"]]:
        """The parts of the identity: w - 1 and b of each site, in order, all zero."""
        return [torch.zeros_like(self._target[site][0]) for site in self.sites for _ in range(2)]

    def loss(self, parts: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, ""]:
        """Delta summed over sites on all training prompts, differentiable in the parts."""
        maps = {
            site: BatchAffine(gain, shift)
            for site, gain, shift in zip(self.sites, parts[::2], parts[1::2], strict=True)
        }
        # Delta sorts over all prompts; running them in parts keeps the peak memory low.
        found = pooled_forward(
            self._model,
            self._source,
            self.sites,
            pooling=self._config.pooling,
            maps=maps,
            rows_at_once=self._config.batch_size,
        )
        terms = [delta(found[s], self._target[s]).mean() for s in self.sites]
        return torch.stack(terms).sum()

    def gamma_max(self) -> float:
        """The gamma at and above which the identity is the solution."""
        start = Iterate.at(self.loss, self.identity())
        return largest_gamma(start.gradient, self._config.l1, self._config.group)

    def path(self, path: PathConfig) -> Iterator[SparsePoint]:
        """Yield the penalised maps from the largest gamma down, each trained on demand."""
        current = Iterate.at(self.loss, self.identity())
        gamma = largest_gamma(current.gradient, self._config.l1, self._config.group)
        for _ in range(path.points):
            gamma *= path.ratio
            penalty = SparsePenalty(gamma, self._config.l1, self._config.group)
            current = proximal_gradient_descent(self.loss, current, penalty, steps=path.steps)
            yield self._point(self._affines(current.values), gamma)

    def learn(self) -> ScoredMap:
        """Train the dense map."""
        trainer = Trainer(self._model, self._prompts, replace(self._config, gamma=0.0))
        sites = trainer.map.sites
        contributions = {site: torch.zeros_like(affine.scale) for site, affine in sites.items()}
        return self._train(trainer, contributions, 0.0)

    def prune(self, learned: ScoredMap, support: float) -> ScoredMap:
        """Keep the neurons with the largest contributions, and train them further.

        Trains for half as many steps as the dense map.

        Args:
            learned: the map.
            support: share of all neurons to keep, less than the map's own; at least one is kept.
        """
        scores = torch.cat([*learned.contributions.values()])
        gamma = scores.topk(max(round(support * len(scores)), 1)).values[-1]
        sites, contributions = {}, {}
        for site, affine in learned.point.map.sites.items():
            kept = learned.contributions[site] >= gamma
            scale = torch.where(kept, affine.scale, 1.0)
            sites[site] = Affine(scale, torch.where(kept, affine.shift, 0.0))
            contributions[site] = learned.contributions[site].where(kept, -torch.inf)
        pruned = SteeringMap(sites)
        config = replace(self._config, gamma=0.0, steps=max(self._config.steps // 2, 1))
        trainer = Trainer(self._model, self._prompts, config, start=pruned, support=pruned)
        return self._train(trainer, contributions, float(gamma))

    def _train(self, trainer: Trainer, contributions: dict[str, Tensor], gamma: float) -> ScoredMap:
        """Train to the last step, adding the decrease of the loss to each neuron's contribution."""
        before = trainer.map.sites
        for _ in trainer.run(read_every=1):
            after = trainer.map.sites
            for site, gradient in trainer.gradients.items():
                contributions[site] -= gradient.gain * (after[site].scale - before[site].scale)
                contributions[site] -= gradient.shift * (after[site].shift - before[site].shift)
            before = after
        return ScoredMap(self._point(trainer.map.sites, gamma), contributions)

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
