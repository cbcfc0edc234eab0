"""Gaussian-AcT: optimal transport between normal distributions, coordinate by coordinate.

    w = std(target) / std(source)        b = mean(target) - w mean(source)

The optimal map if both sides are normal (Peyré and Cuturi, Computational Optimal Transport,
2019, Chapter 2), and ml-act's `gaussian_ot`. Rodriguez et al. (ICLR 2025) fit an affine map to the
sorted samples instead; this one uses only the moments. A neuron that hardly varies on one of the
sides stays as it is, as in ml-act (`act/hooks/transport.py`, `std_eps`).
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.methods.shared import fit_in_order, fit_varying, moments
from lineas_core.numerics.transport import varies
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Fit in closed form.

    Settings used: order, bounds, min_spread, sites, pooling, batch_size, holdout and seed.
    """
    fit_site = partial(fit_varying, match_moments, min_spread=config.min_spread)
    within = config.bounds == "range"
    return fit_in_order(model, prompts, config, "gaussian-act", fit_site, within=within)


def match_moments(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Affine:
    """The map that gives the source the mean and standard deviation of the target.

    A constant coordinate of the source is only shifted (w = 1).
    """
    (variance, mean), (target_variance, target_mean) = moments(source), moments(target)
    moving = varies(mean, variance)
    scale = torch.where(moving, (target_variance / torch.where(moving, variance, 1.0)).sqrt(), 1.0)
    return Affine(scale.float(), (target_mean - scale * mean).float())
