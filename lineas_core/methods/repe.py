"""RePE, representation engineering (Zou et al., 2023): shift along the reading vector.

    v = first principal component of the differences (-1)^i (target_i - source_i)
    w = 1        b = (mean(target) v - mean(source) v) v

The reading vector v has norm 1 and an arbitrary sign; b is the same for v and -v, and points from
the source to the target. Strength 1 moves the mean of the source to that of the target along v and
does not change components orthogonal to v. Every other difference is negated because principal
components are computed from centred data, and centring would remove what the differences have in
common.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.maps.steering_map import Affine, SteeringMap
from lineas_core.methods.shared import fit_parallel, shift_by
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Fit on the untouched model; the i-th source prompt is paired with the i-th target prompt.

    If one side has more prompts, the unpaired ones are used only in the means. Settings used:
    sites, pooling, batch_size, holdout and seed.
    """
    return fit_parallel(model, prompts, config, "repe", move_along_reading_vector)


def move_along_reading_vector(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> Affine:
    """The shift of the source's mean to the target's, along the reading vector."""
    gap = target.mean(dim=0) - source.mean(dim=0)
    vector = reading_vector(source, target)
    return shift_by(gap @ vector * vector)


def reading_vector(
    source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]
) -> Float[Tensor, " d"]:
    """The first principal component of the paired differences, pointing towards the targets."""
    pairs = min(len(source), len(target))
    differences = target[:pairs] - source[:pairs]
    differences[1::2] *= -1
    centred = differences - differences.mean(dim=0)
    vector: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    higher = (target.mean(dim=0) - source.mean(dim=0)) @ vector
    return -vector if higher < 0 else vector
