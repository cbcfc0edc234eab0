"""CAA, contrastive activation addition (Rimsky et al., ACL 2024).

    w = 1        b = mean(target) - mean(source), at the last token

on the untouched model. The paper averages the differences of answer pairs. That equals the
difference of the means, so prompts need not be paired here. The paper adds b at one layer, at the
tokens after the question; this adds it at every site and token.
"""

from __future__ import annotations

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.mean_act import move_mean
from lineas_core.methods.shared import fit_parallel
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Fit in closed form; image models use the mean over height and width in place of a token.

    Settings used: sites, batch_size, holdout and seed.
    """
    return fit_parallel(model, prompts, config, "caa", move_mean, pooling="last")
