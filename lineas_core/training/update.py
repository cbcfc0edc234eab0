"""What one step does to the parameters, as one vector on their device and without reading it back.

    SGD:    p <- p - r g
    AdamW:  m <- b1 m + (1 - b1) g            v <- b2 v + (1 - b2) g^2
            p <- (1 - r c) p - r (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

with rate r, gradient g and step t (Loshchilov and Hutter 2019), and the constants of `torch.optim`,
whose optimizers read the rate and the step on the host, which a GPU would have to wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

Optimizer = Literal["sgd", "adamw"]
# Names of the moments of each optimizer, as `torch.optim` calls them.
MOMENTS: dict[Optimizer, tuple[str, ...]] = {"sgd": (), "adamw": ("exp_avg", "exp_avg_sq")}

BETA_1, BETA_2, EPS, WEIGHT_DECAY = 0.9, 0.999, 1e-8, 0.01


@dataclass(frozen=True)
class Stepped:
    """Parameters and moments after a step.

    Attributes:
        vector: the parameters.
        moments: in the order of `MOMENTS`.
    """

    vector: Float[Tensor, " p"]
    moments: tuple[Float[Tensor, " p"], ...] = ()


def gradient_step(
    optimizer: Optimizer,
    before: Stepped,
    gradient: Float[Tensor, " p"],
    rate: Float[Tensor, 1],
    step: Int[Tensor, 1],
) -> Stepped:
    """One step of `optimizer`; `before` is not changed.

    Args:
        optimizer: sgd or adamw.
        before: the parameters and moments.
        gradient: of the loss with respect to the parameters.
        rate: of this step.
        step: of this run, counted from 1.
    """
    if optimizer == "sgd":
        return Stepped(before.vector - rate * gradient)
    mean, square = before.moments
    mean = mean.lerp(gradient, 1 - BETA_1)
    square = BETA_2 * square + (1 - BETA_2) * gradient.square()
    # In float64, as on the host: 0.999^t is near 1.
    t = step.double()
    mean_bias, square_bias = 1 - BETA_1**t, 1 - BETA_2**t
    length = (square / square_bias.float()).sqrt_() + EPS
    pulled = before.vector * (1 - rate * WEIGHT_DECAY)
    return Stepped(pulled - rate / mean_bias.float() * mean / length, (mean, square))
