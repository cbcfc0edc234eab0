"""Mean-AcT (Rodriguez et al., ICLR 2025): move the mean of each coordinate.

    w = 1        b = mean(target) - mean(source)

Lin-AcT without the scale.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.methods.shared import fit_in_order, shift_by
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Fit in closed form.

    Settings used: order, sites, pooling, batch_size, holdout and seed.
    """
    return fit_in_order(model, prompts, config, "mean-act", move_mean)


def move_mean(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Affine:
    """The shift by the difference of the means."""
    return shift_by(target.mean(dim=0) - source.mean(dim=0))
