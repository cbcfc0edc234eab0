"""One-dimensional optimal transport, coordinate by coordinate.

In one dimension the optimal coupling sorts both samples, so the squared 2-Wasserstein distance
is the mean squared difference of the sorted values, and the best affine map between two samples
is a least-squares line through the sorted pairs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import Affine


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
        v_sorted: True if the columns of `v` are already sorted.

    Returns:
        Shape (d,), differentiable in `u` and `v`.

    Raises:
        ConfigError: `u` or `v` has no rows.

    >>> delta(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [1.0]]))
    tensor([1.])
    """
    _refuse_empty(u, v)
    u = u.sort(dim=0).values
    if not v_sorted:
        v = v.sort(dim=0).values
    if len(u) == len(v):
        return (u - v).square().mean(dim=0)
    rows_u, rows_v, weights = _coupling_on(u.device, u.dtype, len(u), len(v))
    return weights @ (u[rows_u] - v[rows_v.to(v.device)]).square()


def affine_transport(u: Float[Tensor, "n d"], v: Float[Tensor, "m d"], trim: float = 0.0) -> Affine:
    """The affine map that best transports each column of `u` to that of `v` (Lin-AcT, Eq. 5).

    `argmin_{w,b}  integral over t in [trim, 1 - trim] of (w Q_u(t) + b - Q_v(t))^2`, with Q the
    empirical quantile functions. For n = m and no trim, the integral is the mean over the sorted
    samples. `w = cov(Q_u, Q_v) / var(Q_u)`, `b = mean(Q_v) - w mean(Q_u)`. A constant column of
    `u` is only shifted (w = 1).

    Args:
        u: source activations, shape (n, d).
        v: target activations, shape (m, d).
        trim: share of the samples at either end that the fit leaves out, in [0, 0.5). A sample
            that is partly inside is weighted by that part.

    Returns:
        Scale and shift, each of shape (d,), float32, on the CPU. The scale is never negative.

    Raises:
        ConfigError: `u` or `v` has no rows, or `trim` is out of range.
    """
    _refuse_empty(u, v)
    if not 0 <= trim < 0.5:
        raise ConfigError(f"trim is {trim}; it must be 0 or more, and below 0.5.")
    rows_u, rows_v, weights = _coupling(len(u), len(v))
    ends = weights.cumsum(dim=0).clamp(trim, 1 - trim)
    weights = torch.diff(ends, prepend=ends.new_tensor([trim])) / (1 - 2 * trim)
    x = u.detach().double().cpu().sort(dim=0).values[rows_u]
    y = v.detach().double().cpu().sort(dim=0).values[rows_v]
    mean_x, mean_y = weights @ x, weights @ y
    variance = weights @ (x - mean_x).square()
    covariance = weights @ ((x - mean_x) * (y - mean_y))
    moving = varies(mean_x, variance)
    scale = torch.where(moving, covariance / torch.where(moving, variance, 1.0), 1.0)
    return Affine(scale.float(), (mean_y - scale * mean_x).float())


def varies(mean: Float[Tensor, " d"], variance: Float[Tensor, " d"]) -> Bool[Tensor, " d"]:
    """True at coordinates whose variance exceeds rounding error, so that a scale can be fitted."""
    return variance > 1e-12 * mean.square().clamp(min=1e-12)


def _coupling(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal coupling of n and m sorted samples: row indices of each and the mass between."""
    # Quantile levels in units of 1 / (n m): both step functions then jump at integers only.
    jumps = {i * m for i in range(1, n + 1)} | {i * n for i in range(1, m + 1)}
    ends = torch.tensor(sorted(jumps))
    lengths = torch.diff(ends, prepend=ends.new_zeros(1))
    starts = ends - lengths
    return starts // m, starts // n, lengths.double() / (n * m)


@lru_cache(maxsize=64)
def _coupling_on(
    device: torch.device, dtype: torch.dtype, n: int, m: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`_coupling`, kept on a device for all steps of a training."""
    rows_n, rows_m, weights = _coupling(n, m)
    return rows_n.to(device), rows_m.to(device), weights.to(device, dtype)


def _refuse_empty(u: Tensor, v: Tensor) -> None:
    if len(u) == 0 or len(v) == 0:
        raise ConfigError(
            f"Cannot compare {len(u)} with {len(v)} samples. Give one of each or more."
        )
