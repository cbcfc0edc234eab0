"""Mean-AcT (Rodriguez et al., ICLR 2025): move the mean of each coordinate.

    w = 1        b = mean(target) - mean(source)

Lin-AcT without the scale. A neuron that hardly varies on one of the sides stays as it is, as in
ml-act (`act/hooks/transport.py`, `std_eps`).
"""

from __future__ import annotations

from functools import partial

from jaxtyping import Float
from torch import Tensor

from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.methods.shared import fit_in_order, fit_varying, shift_by
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Fit in closed form.

    Settings used: order, bounds, min_spread, sites, pooling, batch_size, holdout and seed.
    """
    fit_site = partial(fit_varying, move_mean, min_spread=config.min_spread)
    within = config.bounds == "range"
    return fit_in_order(model, prompts, config, "mean-act", fit_site, within=within)


def move_mean(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Affine:
    """The shift by the difference of the means."""
    return shift_by(target.mean(dim=0) - source.mean(dim=0))
