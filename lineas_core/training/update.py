"""What a step does to the parameters, as one vector on their device and without reading it back.

    SGD:         p <- p - r g
    heavy ball:  v <- 0.9 v + g                p <- p - r v        (Polyak 1964)
    AdamW:       m <- b1 m + (1 - b1) g       v <- b2 v + (1 - b2) g^2
                 p <- (1 - r c) p - r (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

with rate r, gradient g and step t (Loshchilov and Hutter 2019), and the constants of `torch.optim`,
whose optimizers read the rate and the step on the host, which a GPU would have to wait for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lineas_core.numerics.proximal import sparse_group_shrink
from lineas_core.training.config import TrainConfig

Rule = Literal["sgd", "heavy ball", "adamw"]
# Names of the moments of each rule, as `torch.optim` calls them.
MOMENTS: dict[Rule, tuple[str, ...]] = {
    "sgd": (),
    "heavy ball": ("momentum_buffer",),
    "adamw": ("exp_avg", "exp_avg_sq"),
}
MOMENTUM = 0.9
BETA_1, BETA_2, EPS, WEIGHT_DECAY = 0.9, 0.999, 1e-8, 0.01
# AdamW's rate in units of each neuron's spread (`units.py`), which serves every model: steps of it
# are as long in each parameter, whatever the gradient is.
UNIT_RATE = 0.02


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
    rule: Rule,
    before: Stepped,
    gradient: Float[Tensor, " p"],
    rate: Float[Tensor, 1],
    step: Int[Tensor, 1],
    units: Float[Tensor, " p"] | None = None,
) -> Stepped:
    """One step; `before` is not changed.

    Args:
        rule: a key of `MOMENTS`.
        before: the parameters and moments.
        gradient: of the loss with respect to the parameters.
        rate: of this step.
        step: of this run, counted from 1.
        units: what a step of 1 in each parameter is; 1 by default. `gradient` is then with
            respect to the parameters divided by them.
    """
    own = rate if units is None else rate * units
    if rule == "sgd":
        return Stepped(before.vector - own * gradient)
    if rule == "heavy ball":
        velocity = MOMENTUM * before.moments[0] + gradient
        return Stepped(before.vector - own * velocity, (velocity,))
    mean, square = before.moments
    mean = mean.lerp(gradient, 1 - BETA_1)
    square = BETA_2 * square + (1 - BETA_2) * gradient.square()
    # In float64, as on the host: 0.999^t is near 1.
    t = step.double()
    mean_bias, square_bias = 1 - BETA_1**t, 1 - BETA_2**t
    length = (square / square_bias.float()).sqrt_() + EPS
    pulled = before.vector * (1 - rate * WEIGHT_DECAY)
    return Stepped(pulled - own / mean_bias.float() * mean / length, (mean, square))


def rule_of(config: TrainConfig) -> Rule:
    """How a run steps. At a measured rate, 1 / the largest curvature, plain SGD is slow."""
    measured = config.rate is None and config.optimizer == "sgd"
    return "heavy ball" if measured else config.optimizer


def first_rate(config: TrainConfig, reach: float = 1.0) -> float:
    """The rate at the first step; NaN where it is measured before it.

    Args:
        config: the settings.
        reach: how far a step of 1 moves what the loss is of, which a fixed rate makes up for.
    """
    if config.rate is not None:
        return config.rate
    return UNIT_RATE / reach if config.optimizer == "adamw" else math.nan


def proximal_step(
    config: TrainConfig,
    vector: Float[Tensor, " p"],
    sizes: Sequence[int],
    rate: Float[Tensor, 1],
    units: Float[Tensor, " p"] | None = None,
) -> Float[Tensor, " p"]:
    """The parameters, shrunk towards the identity (LinEAS, Algorithm 1).

    Args:
        config: gamma, l1, group and prox_step are used.
        vector: the parameters, as offsets from the identity.
        sizes: of the groups in it, the gains and the shifts of each site.
        rate: of this step.
        units: as for `gradient_step`; the penalty is then on the parameters divided by them.
    """
    if config.gamma == 0:
        return vector
    threshold = config.gamma * (rate if config.prox_step == "rate" else torch.ones_like(rate))
    groups = (vector if units is None else vector / units).split(list(sizes))
    shrunk = torch.cat([sparse_group_shrink(z, threshold, config.l1, config.group) for z in groups])
    return shrunk if units is None else shrunk * units


def rate_share(step: int, steps: int) -> float:
    """Share of the rate at `step`, counted from 0, on a half cosine."""
    return (1 + math.cos(math.pi * step / steps)) / 2
