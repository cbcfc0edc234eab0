"""Progress events of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The term of the loss that is of no site; no module can have that name.
LIKELIHOOD = "(likelihood)"


@dataclass(frozen=True)
class StepEvent:
    """Progress after one training step.

    Attributes:
        step: number of steps done, from 1.
        steps: total number of steps.
        loss: the sum over sites and of the likelihood, before the step, without the penalty.
        loss_by_site: the loss of each site; empty where the likelihood alone is trained.
        support: share of the coordinates that the map changes, after the step.
        seconds: time spent training so far, including earlier runs that were resumed.
        seconds_left: estimated time until the last step.
        note: what the user should know of the run since the event before, such as a restart at a
            lower rate; mostly empty.
        likelihood: the next-token loss of the target times its weight, for LinEAS+; else 0.
    """

    step: int
    steps: int
    loss: float
    loss_by_site: Mapping[str, float] = field(repr=False)
    support: float
    seconds: float
    seconds_left: float
    note: str = ""
    likelihood: float = 0.0

    @property
    def steps_left(self) -> int:
        """Number of steps remaining."""
        return self.steps - self.step
