"""Code shared by the closed-form methods, which fit each site from two sets of activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.activations import execution_order, pooled_activations
from lineas_core.maps.steering_map import Affine, BatchAffine, SteeringMap
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
        pooled_activations(
            model, side, training.sites, pooling=config.pooling, batch_size=config.batch_size
        )
        for side in (training.source, training.target)
    )
    return {site: (_exact(source[site]), _exact(target[site])) for site in training.sites}


def fit_parallel(
    model: Steerable,
    prompts: Samples,
    config: TrainConfig,
    method: str,
    fit_site: FitSite,
    pooling: Pooling | None = None,
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
    """
    training = prepare_training(model, prompts, config)
    if pooling is not None:
        no_tokens = training.source.mask is None
        config = replace(config, pooling="mean" if pooling == "last" and no_tokens else pooling)
    sites = {
        site: fit_site(source, target)
        for site, (source, target) in both_sides(model, training, config).items()
    }
    return SteeringMap(sites, describe_map(model, prompts, method, config))


def fit_in_order(
    model: Steerable, prompts: Samples, config: TrainConfig, method: str, fit_site: FitSite
) -> SteeringMap:
    """Fit the sites in the order given by `config.order`.

    "sequential" fits one site after another: the source runs through the model with all earlier
    sites steered, the target through the untouched model (Rodriguez et al., ICLR 2025,
    Section 3.2). "parallel" is `fit_parallel`.
    """
    if config.order == "parallel":
        return fit_parallel(model, prompts, config, method, fit_site)
    training = prepare_training(model, prompts, config)
    size, pooling = config.batch_size, config.pooling
    targets = pooled_activations(
        model, training.target, training.sites, pooling=pooling, batch_size=size
    )
    fitted: dict[str, Affine] = {}
    live: dict[str, BatchAffine] = {}
    for site in training.sites:
        source = pooled_activations(
            model, training.source, [*fitted, site], pooling=pooling, batch_size=size, maps=live
        )[site]
        fitted[site] = fit_site(_exact(source), _exact(targets[site]))
        live[site] = fitted[site].on(source.device)
    return SteeringMap(fitted, describe_map(model, prompts, method, config))


def shift_by(shift: Float[Tensor, " d"]) -> Affine:
    """The map that adds `shift` and does not scale."""
    return Affine(torch.ones(len(shift)), shift.float())


def _exact(z: Tensor) -> Tensor:
    return z.cpu().double()
