"""What a training run reports while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepEvent:
    """What one step reports.

    Attributes:
        step: steps done, from 1.
        steps: steps in all.
        loss: the sum over sites, before the step, without the penalty.
        loss_by_site: its terms.
        support: share of the coordinates that the map changes, after the step.
        seconds: since training began, over all its sittings.
        seconds_left: expected until the last step.
    """

    step: int
    steps: int
    loss: float
    loss_by_site: Mapping[str, float] = field(repr=False)
    support: float
    seconds: float
    seconds_left: float

    @property
    def steps_left(self) -> int:
        """Steps still to do."""
        return self.steps - self.step
