"""Units in which one step size serves every model and every width.

Activations of one model are a thousand times those of another, and so are single neurons of one
model (Gemma 3's norms have large weights), so no rate on raw activations suits two of them. Here
neuron j is measured by its spread over prompts, and its parameters by what they move:

    s_j^2 = (var x_j + var y_j) / 2        m_j^2 = mean x_j^2        x: source, y: target
    loss    Delta_j / s_j^2
    steps   on a_j and c_j, where gain_j = a_j s_j / m_j and shift_j = c_j s_j

so that a step of 0.1 in a_j or c_j moves the neuron by about a tenth of its spread. In these units
the rate is 1 / lambda, with lambda the largest curvature of the loss at the start, and momentum
brings the directions of small curvature forward (`update.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# A neuron's least spread, as a share of that of its site: one that never varies would have none.
MIN_SPREAD = 1e-3
# Power iterations on the curvature, and the length of their finite differences.
ITERATIONS, DIFFERENCE = 10, 1e-2


class Units(NamedTuple):
    """Units of a run.

    Attributes:
        weights: of each neuron's Delta in the loss, 1 / s^2.
        steps: of each parameter: for each site s / m for the gains, then s for the shifts.
    """

    weights: Float[Tensor, " d"]
    steps: Float[Tensor, " p"]


def units_of(
    source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], widths: Sequence[int]
) -> Units:
    """Units from pooled activations of all sites side by side.

    Args:
        source: of the untouched model, n >= 2.
        target: of the untouched model, m >= 2.
        widths: of the sites.
    """
    variance = (source.var(dim=0) + target.var(dim=0)) / 2
    spreads, sizes = [], []
    for of_site, x in zip(variance.split(widths), source.split(widths, dim=1), strict=True):
        least = of_site.mean().sqrt() * MIN_SPREAD
        # A site that is the same for all prompts is measured by its size.
        spread = of_site.sqrt().clamp(min=least.clamp(min=1e-6 * x.square().mean().sqrt()))
        spreads.append(spread.clamp(min=torch.finfo(spread.dtype).tiny ** 0.25))
        sizes.append(x.square().mean(dim=0).sqrt().maximum(spreads[-1]))
    steps = [part for s, m in zip(spreads, sizes, strict=True) for part in (s / m, s)]
    return Units(torch.cat(spreads).square().reciprocal(), torch.cat(steps))


def largest_curvature(
    gradient_at: Callable[[Float[Tensor, " p"]], Float[Tensor, " p"]], start: Float[Tensor, " p"]
) -> float:
    """The largest curvature of a loss around `start`, by power iterations.

    Args:
        gradient_at: gradient of the loss at a point.
        start: the point.
    """
    gradient = gradient_at(start)
    direction, curvature = gradient, torch.zeros(())
    for _ in range(ITERATIONS):
        direction = direction / direction.norm().clamp(min=torch.finfo(torch.float32).tiny)
        ahead = gradient_at(start + DIFFERENCE * direction)
        direction = (ahead - gradient) / DIFFERENCE
        curvature = direction.norm()
    return float(curvature)
