"""Proximal operators of the sparse group lasso (LinEAS, Section 3.3, Eqs. 5 to 7).

    R(w, b) = gamma * [ l1 * (|w-1|_1 + |b|_1) + lG * sqrt(d) * (|w-1|_2 + |b|_2) ]

summed over sites of width d. A gradient step of rate r is followed by the proximal step of
r * R, which sets coordinates, and whole sites, to exactly w = 1 and b = 0.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.errors import ConfigError

# A number, or a tensor of one on the device of what it shrinks.
Threshold = float | Tensor


def soft_threshold(z: Float[Tensor, "*shape"], threshold: Threshold) -> Float[Tensor, "*shape"]:
    """Shrink every entry of `z` towards zero by `threshold`, to exactly zero within it.

    The proximal operator of `threshold * |.|_1` (LinEAS, Eq. 7):
    `argmin_x  |x - z|_2^2 / 2 + threshold * |x|_1`.

    Args:
        z: any shape; left unchanged.
        threshold: >= 0, in the units of `z`.

    Raises:
        ConfigError: the threshold is negative.

    >>> soft_threshold(torch.tensor([-2.0, 0.5, 1.5]), 1.0)
    tensor([-1.0000,  0.0000,  0.5000])
    """
    _refuse_negative(threshold)
    return torch.sign(z) * torch.clamp(z.abs() - threshold, min=0)


def group_shrink(z: Float[Tensor, " d"], threshold: Threshold) -> Float[Tensor, " d"]:
    """Reduce the norm of `z` by `threshold`; the result is exactly zero if |z|_2 <= threshold.

    The proximal operator of `threshold * |.|_2`: `(1 - threshold / |z|_2)_+ z`. Eq. 7 of LinEAS
    prints the group weight in place of this threshold, a misprint.

    Args:
        z: shape (d,); left unchanged.
        threshold: >= 0, in the units of `z`.

    Raises:
        ConfigError: the threshold is negative.

    >>> group_shrink(torch.tensor([3.0, 4.0]), 2.5)
    tensor([1.5000, 2.0000])
    """
    _refuse_negative(threshold)
    norm = torch.linalg.vector_norm(z)
    factor = torch.where(norm > threshold, 1 - threshold / norm, torch.zeros_like(norm))
    return factor * z


def sparse_group_shrink(
    z: Float[Tensor, " d"], threshold: Threshold, l1: float, group: float
) -> Float[Tensor, " d"]:
    """The proximal operator of `threshold * (l1 * |.|_1 + group * sqrt(d) * |.|_2)`.

    Soft threshold first, group shrinkage second: for this penalty the composition in that
    order is exact (LinEAS, Eq. 7; Simon et al. 2013).

    Args:
        z: shape (d,), the offset of a parameter from the identity; left unchanged.
        threshold: rate times gamma, >= 0.
        l1: weight of the |.|_1 term, >= 0.
        group: weight of the |.|_2 term, >= 0.

    Raises:
        ConfigError: threshold, l1 or group is negative.
    """
    return group_shrink(soft_threshold(z, threshold * l1), threshold * group * math.sqrt(z.numel()))


def _refuse_negative(threshold: Threshold) -> None:
    # A tensor is not read: a GPU would have to be waited for.
    if not isinstance(threshold, Tensor) and not threshold >= 0:
        raise ConfigError(f"threshold is {threshold}; it must be 0 or more.")
