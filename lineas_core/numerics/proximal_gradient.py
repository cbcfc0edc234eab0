"""Proximal gradient descent with an adaptive step size.

    minimise over x    f(x) + sum over parts of  R(x_part)

for a smooth f and the sparse group penalty R of `proximal.py`. Each step is

    x+ = prox_{step_size R}(x - step_size * gradient)

The step size is that of Barzilai and Borwein, <s, s> / <s, y>, where s and y are the last changes
of x and of the gradient. It is halved until the objective falls (SpaRSA, Wright, Nowak and
Figueiredo 2009). No learning rate has to be chosen, and a good start needs few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.numerics.proximal import sparse_group_shrink

Loss = Callable[[Sequence[Tensor]], Float[Tensor, ""]]

# A step must lower the objective by at least this share of |change|^2 / (2 step_size).
MIN_DECREASE = 0.01
MAX_HALVINGS = 20
# Largest growth of the step size per step: a limit keeps the number of rejected trials small.
MAX_GROWTH = 10.0


@dataclass(frozen=True)
class SparsePenalty:
    """R(z) = gamma * (l1 * |z|_1 + group * sqrt(d) * |z|_2), for each part z of d entries."""

    gamma: float
    l1: float = 1.0
    group: float = 1.0

    def value(self, z: Float[Tensor, " d"]) -> float:
        """R(z)."""
        norm = torch.linalg.vector_norm(z)
        return float(self.gamma * (self.l1 * z.abs().sum() + self.group * z.numel() ** 0.5 * norm))

    def shrink(self, z: Float[Tensor, " d"], step_size: float) -> Float[Tensor, " d"]:
        """The proximal operator of step_size * R."""
        return sparse_group_shrink(z, step_size * self.gamma, self.l1, self.group)


def largest_gamma(gradient: Sequence[Float[Tensor, " _"]], l1: float, group: float) -> float:
    """The smallest gamma for which zero is a solution. It is also one for every larger gamma.

    Zero is a solution if |soft(g, gamma * l1)|_2 <= gamma * group * sqrt(d) for every part g, of d
    entries, of the gradient at zero (Simon et al. 2013). The left side decreases and the right side
    increases with gamma, so each part has one smallest gamma, which is found by bisection.

    Args:
        gradient: of f at zero, one vector per part of the penalty.
        l1: weight of the |.|_1 term.
        group: weight of the |.|_2 term; l1 or group must be above 0.
    """

    def stays_zero(g: Tensor, gamma: float) -> bool:
        left = torch.linalg.vector_norm((g - gamma * l1).clamp(min=0))
        return float(left) <= gamma * group * math.sqrt(g.numel())

    largest = 0.0
    for part in gradient:
        g = part.detach().abs().double()
        if stays_zero(g, largest):
            continue
        # The gamma that either term needs alone is an upper bound for both together.
        l1_only = float(g.max()) / l1 if l1 else math.inf
        group_only = float(g.norm()) / (group * math.sqrt(len(g))) if group else math.inf
        low, high = 0.0, min(l1_only, group_only)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if stays_zero(g, middle) else (middle, high)
        largest = high
    return largest


@dataclass(frozen=True, eq=False)
class Iterate:
    """A point of the descent, with the loss and its gradient there.

    Attributes:
        values: one vector per part.
        loss: f at `values`.
        gradient: of f at `values`, one vector per part.
        step_size: the first one to try in the next step.
    """

    values: list[Float[Tensor, " _"]]
    loss: float
    gradient: list[Float[Tensor, " _"]]
    step_size: float = 1.0

    @classmethod
    def at(cls, loss: Loss, values: Sequence[Float[Tensor, " _"]]) -> Iterate:
        """The starting point of a descent; `values` are left unchanged."""
        return _Trial(loss, values).accept(1.0)


class _Trial:
    """The loss at a candidate point. The gradient is computed only if the point is accepted."""

    def __init__(self, loss: Loss, values: Sequence[Tensor]) -> None:
        self._leaves = [value.detach().clone().requires_grad_() for value in values]
        self._value = loss(self._leaves)
        self.loss = self._value.item()

    def accept(self, step_size: float) -> Iterate:
        gradient = [*torch.autograd.grad(self._value, self._leaves)]
        return Iterate([leaf.detach() for leaf in self._leaves], self.loss, gradient, step_size)


def proximal_gradient_descent(
    loss: Loss, start: Iterate, penalty: SparsePenalty, *, steps: int
) -> Iterate:
    """Take proximal gradient steps from `start`; each step lowers the objective.

    Args:
        loss: the smooth part f, a differentiable function of the parts.
        start: `Iterate.at`, or the result of an earlier descent on the same loss.
        penalty: R.
        steps: maximum number; stops earlier if no step size lowers the objective.
    """
    current = start
    for _ in range(steps):
        following = _step(loss, current, penalty)
        if following is None:
            break
        current = following
    return current


def _step(loss: Loss, current: Iterate, penalty: SparsePenalty) -> Iterate | None:
    """The next iterate; None if no step size lowers the objective."""
    objective = current.loss + sum(map(penalty.value, current.values))
    step_size = current.step_size
    for _ in range(MAX_HALVINGS):
        pairs = zip(current.values, current.gradient, strict=True)
        values = [penalty.shrink(x - step_size * g, step_size) for x, g in pairs]
        change = [new - old for new, old in zip(values, current.values, strict=True)]
        squared_change = _dot(change, change)
        if squared_change == 0:
            return None
        trial = _Trial(loss, values)
        reached = trial.loss + sum(map(penalty.value, values))
        if reached <= objective - MIN_DECREASE * squared_change / (2 * step_size):
            break
        step_size /= 2
    else:
        return None
    accepted = trial.accept(step_size)
    gradients = zip(accepted.gradient, current.gradient, strict=True)
    curvature = _dot(change, [new - old for new, old in gradients])
    # Without positive curvature along the step, only MAX_GROWTH limits the next step size.
    barzilai_borwein = squared_change / curvature if curvature > 0 else math.inf
    return replace(accepted, step_size=min(barzilai_borwein, MAX_GROWTH * step_size))


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))
