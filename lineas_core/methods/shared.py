"""Code shared by the closed-form methods, which fit each site from two sets of activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lineas_core.activations import execution_order, pooled_activations
from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.maps.bounds import Bounds
from lineas_core.maps.steering_map import Affine, LiveMap, Segment, SteeringMap, live_map
from lineas_core.steerable import Inputs, Pooling, Samples, Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.provenance import describe_map


@runtime_checkable
class FitSite(Protocol):
    """Fits the map of one site to the pooled activations of source and target prompts there.

    The activations are on the CPU in float64; the map is float32.
    """

    def __call__(self, source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Affine:
        """Fit the site."""
        ...


@dataclass(frozen=True)
class Training:
    """The data a map is fitted on.

    Attributes:
        source: the prepared source prompts, without those held out.
        target: the prepared target prompts, likewise.
        sites: in the order in which the model runs them.
    """

    source: Inputs
    target: Inputs
    sites: Sequence[str]


def prepare_training(model: Steerable, prompts: Samples, config: TrainConfig) -> Training:
    """The prompts and sites that `config` selects, the same as for LinEAS training."""
    training, _ = prompts.split(config.holdout, config.seed)
    source, target = model.prepare(training.source), model.prepare(training.target)
    sites = execution_order(model, source, model.sites(config.sites or model.default_sites))
    return Training(source, target, sites)


def both_sides(
    model: Steerable, training: Training, config: TrainConfig
) -> dict[str, tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]]:
    """Site -> pooled activations of the source and of the target, on the untouched model.

    They are on the CPU because not every accelerator supports float64.
    """
    source, target = (
        _pooled(model, side, training.sites, config) for side in (training.source, training.target)
    )
    return {site: (_exact(source[site]), _exact(target[site])) for site in training.sites}


def fit_parallel(
    model: Steerable,
    prompts: Samples,
    config: TrainConfig,
    method: str,
    fit_site: FitSite,
    pooling: Pooling | None = None,
    *,
    within: bool = False,
) -> SteeringMap:
    """Fit every site on the untouched model.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: sites, pooling, batch_size, holdout and seed are used.
        method: a key of `TITLES`.
        fit_site: the method.
        pooling: overrides that of `config` for methods that fix it, and is recorded in the map.
            Image models have no last token, so "last" becomes "mean" there.
        within: whether the map moves only activations within the range of the pooled source.
    """
    training = prepare_training(model, prompts, config)
    if pooling is not None:
        no_tokens = training.source.mask is None
        config = replace(config, pooling="mean" if pooling == "last" and no_tokens else pooling)
    sites: dict[str, Affine] = {}
    bounds: dict[str, Bounds] = {}
    for site, (source, target) in both_sides(model, training, config).items():
        sites[site] = fit_site(source, target)
        if within:
            sites[site], bounds[site] = _bounded(sites[site], source)
    return SteeringMap(sites, describe_map(model, prompts, method, config), bounds)


def fit_in_order(
    model: Steerable,
    prompts: Samples,
    config: TrainConfig,
    method: str,
    fit_site: FitSite,
    *,
    within: bool,
) -> SteeringMap:
    """Fit the sites in the order given by `config.order`.

    "sequential" fits one site after another: source and target run through the model with all
    earlier sites steered, as in ml-act (`learn_intervention_all_incremental`). With
    "sequential-source" the target runs through the untouched model. "parallel" is `fit_parallel`,
    whose arguments these are.
    """
    if config.order == "parallel":
        return fit_parallel(model, prompts, config, method, fit_site, within=within)
    training = prepare_training(model, prompts, config)
    untouched: dict[str, Tensor] = {}
    if config.order == "sequential-source":
        untouched = _pooled(model, training.target, training.sites, config)
    sites: dict[str, Affine] = {}
    bounds: dict[str, Bounds] = {}
    live: dict[str, LiveMap] = {}
    for site in training.sites:
        reached = [*sites, site]
        source = _pooled(model, training.source, reached, config, live)[site]
        target = untouched.get(site)
        if target is None:
            target = _pooled(model, training.target, reached, config, live)[site]
        sites[site] = fit_site(_exact(source), _exact(target))
        if within:
            sites[site], bounds[site] = _bounded(sites[site], source)
        live[site] = live_map([Segment(sites[site].on(source.device), bounds.get(site))])
    return SteeringMap(sites, describe_map(model, prompts, method, config), bounds)


def closest_strength(
    model: Steerable,
    prompts: Samples,
    smap: SteeringMap,
    strengths: Sequence[float],
    config: TrainConfig,
) -> float:
    """The strength at which a map brings the training prompts closest to the target.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        smap: the map.
        strengths: those to try.
        config: pooling, batch_size, holdout and seed are used.
    """
    training, _ = prompts.split(config.holdout, config.seed)
    distance = TargetDistance(
        model, training, list(smap.sites), pooling=config.pooling, batch_size=config.batch_size
    )
    left = dict(zip(strengths, distance.left(smap, strengths), strict=True))
    return min(left, key=left.__getitem__)


def shift_by(shift: Float[Tensor, " d"]) -> Affine:
    """The map that adds `shift` and does not scale."""
    return Affine(torch.ones(len(shift)), shift.float())


def fit_varying(
    fit_site: FitSite, source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], min_spread: float
) -> Affine:
    """Fit a site, but leave neurons as they are that hardly vary.

    Args:
        fit_site: the method.
        source, target: as for `fit_site`.
        min_spread: neurons with a standard deviation at most this, on either side, stay as they
            are; 0 moves all.
    """
    affine = fit_site(source, target)
    if not min_spread:
        return affine
    spread = torch.minimum(moments(source)[0], moments(target)[0]).sqrt()
    return _still_where(spread <= min_spread, affine)


def moments(z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Variance, unbiased as in ml-act, and mean of each column; one row has the variance 0."""
    variance, mean = torch.var_mean(z, dim=0, correction=min(1, len(z) - 1))
    return variance, mean


def _still_where(still: Bool[Tensor, " d"], affine: Affine) -> Affine:
    """The map, but the identity where `still` is True."""
    return Affine(affine.scale.masked_fill(still, 1), affine.shift.masked_fill(still, 0))


def _bounded(affine: Affine, source: Float[Tensor, "n d"]) -> tuple[Affine, Bounds]:
    """The map within the range of the pooled source; the identity where that is one value."""
    bounds = Bounds(*(side.float().cpu() for side in (source.amin(dim=0), source.amax(dim=0))))
    return _still_where(bounds.lower == bounds.upper, affine), bounds


def _pooled(
    model: Steerable,
    side: Inputs,
    sites: Sequence[str],
    config: TrainConfig,
    live: Mapping[str, LiveMap] | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Pooled activations of one side, with the maps `live` on."""
    return pooled_activations(
        model, side, sites, pooling=config.pooling, batch_size=config.batch_size, maps=live
    )


def _exact(z: Tensor) -> Tensor:
    return z.cpu().double()
