"""Proximal gradient descent that finds its own step lengths.

    minimise over x    f(x) + sum over parts of  R(x_part)

for a smooth f and the sparse group penalty R of `proximal.py`. Each step is

    x+ = prox_{length R}(x - length * gradient)

with the length of Barzilai and Borwein, <s, s> / <s, y> for the last change s of x and y of the
gradient, halved until the objective falls (SpaRSA, Wright, Nowak and Figueiredo 2009). It needs no
learning rate, and few steps from a start that is nearly right.
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

# A step must gain at least this share of |change|^2 / (2 length).
LEAST_DECREASE = 0.01
HALVINGS = 20
# A length grows by no more than this at once, so that few are tried in vain.
MOST_GROWTH = 10.0


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

    def shrink(self, z: Float[Tensor, " d"], length: float) -> Float[Tensor, " d"]:
        """The proximal operator of length * R."""
        return sparse_group_shrink(z, length * self.gamma, self.l1, self.group)


def largest_gamma(gradient: Sequence[Float[Tensor, " _"]], l1: float, group: float) -> float:
    """The gamma at and above which zero stays the solution.

    Zero is one where |soft(g, gamma * l1)|_2 <= gamma * group * sqrt(d) for every part g of the
    gradient there, of d entries (Simon et al. 2013). The left side falls and the right side grows
    with gamma, so each part has one smallest such value, found by bisection.

    Args:
        gradient: of the smooth part at zero, a vector for each part of the penalty.
        l1: weight of the entries.
        group: weight of the parts; one of the two is above 0.
    """

    def rests(g: Tensor, gamma: float) -> bool:
        left = torch.linalg.vector_norm((g - gamma * l1).clamp(min=0))
        return float(left) <= gamma * group * math.sqrt(g.numel())

    largest = 0.0
    for part in gradient:
        g = part.detach().abs().double()
        if rests(g, largest):
            continue
        # What either penalty alone would take is enough for both.
        alone = float(g.max()) / l1 if l1 else math.inf
        together = float(g.norm()) / (group * math.sqrt(len(g))) if group else math.inf
        low, high = 0.0, min(alone, together)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if rests(g, middle) else (middle, high)
        largest = high
    return largest


@dataclass(frozen=True, eq=False)
class Place:
    """A point of a descent, and what is known of the loss there.

    Attributes:
        values: a vector for each part.
        loss: f there.
        gradient: of f, a vector for each part.
        length: of the step that is tried first from here.
    """

    values: list[Float[Tensor, " _"]]
    loss: float
    gradient: list[Float[Tensor, " _"]]
    length: float = 1.0

    @classmethod
    def at(cls, loss: Loss, values: Sequence[Float[Tensor, " _"]]) -> Place:
        """Where a descent begins; `values` are left unchanged."""
        return _Trial(loss, values).accepted(1.0)


class _Trial:
    """The loss at a point, whose gradient is only worked out where the point is accepted."""

    def __init__(self, loss: Loss, values: Sequence[Tensor]) -> None:
        self._leaves = [value.detach().clone().requires_grad_() for value in values]
        self._found = loss(self._leaves)
        self.loss = self._found.item()

    def accepted(self, length: float) -> Place:
        gradient = [*torch.autograd.grad(self._found, self._leaves)]
        return Place([leaf.detach() for leaf in self._leaves], self.loss, gradient, length)


def descend(loss: Loss, start: Place, penalty: SparsePenalty, *, steps: int) -> Place:
    """Proximal gradient steps from `start`; each lowers the objective.

    Args:
        loss: the smooth part f of the vectors, differentiable.
        start: where an earlier descent of the same loss came to, or `Place.at`.
        penalty: R.
        steps: at most; fewer where no step lowers the objective.
    """
    here = start
    for _ in range(steps):
        there = _step(loss, here, penalty)
        if there is None:
            break
        here = there
    return here


def _step(loss: Loss, here: Place, penalty: SparsePenalty) -> Place | None:
    """The next place; None where no length lowers the objective."""
    objective = here.loss + sum(map(penalty.value, here.values))
    length = here.length
    for _ in range(HALVINGS):
        pairs = zip(here.values, here.gradient, strict=True)
        values = [penalty.shrink(x - length * g, length) for x, g in pairs]
        change = [new - old for new, old in zip(values, here.values, strict=True)]
        moved = _dot(change, change)
        if moved == 0:
            return None
        trial = _Trial(loss, values)
        reached = trial.loss + sum(map(penalty.value, values))
        if reached <= objective - LEAST_DECREASE * moved / (2 * length):
            break
        length /= 2
    else:
        return None
    there = trial.accepted(length)
    turned = [new - old for new, old in zip(there.gradient, here.gradient, strict=True)]
    bend = _dot(change, turned)
    # Where the loss does not bend upwards along the step, any length would do.
    following = moved / bend if bend > 0 else math.inf
    return replace(there, length=min(following, MOST_GROWTH * length))


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))
