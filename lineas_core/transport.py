"""One-dimensional optimal transport, coordinate by coordinate.

In one dimension the optimal coupling sorts both samples, so the squared 2-Wasserstein distance
is the mean squared difference of the sorted values, and the best affine map between two samples
is a least-squares line through the sorted pairs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.errors import ConfigError
from lineas_core.maps import Affine


def delta(
    u: Float[Tensor, "n d"], v: Float[Tensor, "m d"], *, v_sorted: bool = False
) -> Float[Tensor, " d"]:
    """Squared 2-Wasserstein distance between `u` and `v`, for each coordinate.

    `Delta_j = integral over t in [0, 1] of (Q_u,j(t) - Q_v,j(t))^2`, with Q the empirical
    quantile functions (LinEAS, Eq. 3). For n = m it is the mean over n of the squared
    differences of the sorted columns.

    Args:
        u: shape (n, d), n >= 1.
        v: shape (m, d), m >= 1.
        v_sorted: the columns of `v` are sorted already.

    Returns:
        Shape (d,), differentiable in both.

    Raises:
        ConfigError: one of them has no rows.

    >>> delta(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [1.0]]))
    tensor([1.])
    """
    _refuse_empty(u, v)
    u = u.sort(dim=0).values
    if not v_sorted:
        v = v.sort(dim=0).values
    if len(u) == len(v):
        return (u - v).square().mean(dim=0)
    rows_u, rows_v, weights = _coupling(len(u), len(v))
    return weights.to(u) @ (u[rows_u.to(u.device)] - v[rows_v.to(v.device)]).square()


def affine_transport(u: Float[Tensor, "n d"], v: Float[Tensor, "m d"]) -> Affine:
    """The affine map that best transports each column of `u` to that of `v` (Lin-AcT, Eq. 5).

    `argmin_{w,b}  mean_i (w u_(i) + b - v_(i))^2` over the sorted samples:
    `w = cov(u_sorted, v_sorted) / var(u)`, `b = mean(v) - w mean(u)`. A column of `u` that does
    not vary is shifted only.

    Args:
        u: source activations, shape (n, d).
        v: target activations, shape (m, d).

    Returns:
        Scale and shift, each of shape (d,), float32, on the CPU. The scale is never negative.

    Raises:
        ConfigError: one of them has no rows.
    """
    _refuse_empty(u, v)
    rows_u, rows_v, weights = _coupling(len(u), len(v))
    x = u.detach().double().cpu().sort(dim=0).values[rows_u]
    y = v.detach().double().cpu().sort(dim=0).values[rows_v]
    mean_x, mean_y = weights @ x, weights @ y
    variance = weights @ (x - mean_x).square()
    covariance = weights @ ((x - mean_x) * (y - mean_y))
    varies = variance > 1e-12 * mean_x.square().clamp(min=1e-12)
    scale = torch.where(varies, covariance / torch.where(varies, variance, 1.0), 1.0)
    return Affine(scale.float(), (mean_y - scale * mean_x).float())


def _coupling(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which sorted row of n meets which of m, and with what mass: the steps of both quantiles."""
    # Levels in units of 1 / (n m), where both step functions change at whole numbers.
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    lengths = torch.diff(ends, prepend=ends.new_zeros(1))
    starts = ends - lengths
    return starts // m, starts // n, lengths.double() / (n * m)


def _refuse_empty(u: Tensor, v: Tensor) -> None:
    if len(u) == 0 or len(v) == 0:
        raise ConfigError(
            f"Cannot compare {len(u)} with {len(v)} samples. Give one of each or more."
        )
