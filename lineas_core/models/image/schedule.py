"""The denoising steps of an image model: how many, at which timesteps, with how much guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from lineas_core.errors import ConfigError
from lineas_core.models.shared.catalog import CatalogEntry

if TYPE_CHECKING:
    # Imports diffusers, which takes seconds; the app responds before it needs it.
    from lineas_core.models.image.denoisers import Denoiser

MAX_STEPS = 50
# For models outside the catalogue; the paper steers few-step models.
DEFAULT_STEPS = 4
# Guidance that every class of pipeline takes for none.
NO_GUIDANCE = 1.0


@dataclass(frozen=True)
class Schedule:
    """The denoising steps of a model.

    Attributes:
        steps: number of steps.
        timesteps: timestep of each step; empty for the scheduler's own.
        guidance: guidance scale of the pipeline's call; 0 for none. Where the pipeline's class
            guides without a classifier, each step also runs the denoiser without the prompt.

    Raises:
        ConfigError: the guidance is negative or not finite.
    """

    steps: int
    timesteps: tuple[int, ...] = ()
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise ConfigError(
                f"guidance is {self.guidance}; give 0 for none, or a number such as 7.5."
            )

    def changed(
        self,
        id: str,
        denoiser: Denoiser,
        steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance: float | None = None,
    ) -> Schedule:
        """This schedule with other settings, checked against what a model's denoiser can do.

        Args:
            id: the model's name in errors.
            denoiser: of the model.
            steps: 1 to 50; None for the schedule's own.
            timesteps: decreasing, one for each step; None for the schedule's own, or, where `steps`
                is given, for the scheduler's.
            guidance: None for the schedule's own.

        Raises:
            ConfigError: a setting is out of range, or is one that the pipeline ignores.
        """
        changed = self if guidance is None else replace(self, guidance=guidance)
        if changed.guidance > NO_GUIDANCE and not denoiser.takes_guidance:
            raise ConfigError(
                f"guidance is {changed.guidance}, and {id} was distilled to run without; its "
                "pipeline would ignore it. Leave it out, or set it to 0."
            )
        if timesteps is not None:
            most = denoiser.pipeline.scheduler.config.num_train_timesteps
            falling = all(a > b for a, b in pairwise(timesteps))
            if not denoiser.takes_timesteps:
                raise ConfigError(f"{id} takes no timesteps; leave them out and give steps.")
            if not timesteps or not falling or not 0 <= timesteps[-1] <= timesteps[0] < most:
                raise ConfigError(
                    f"timesteps is {list(timesteps)}; give falling numbers from {most - 1} to 0."
                )
            if steps not in (None, len(timesteps)):
                raise ConfigError(f"steps is {steps}, and there are {len(timesteps)} timesteps.")
            return replace(changed, steps=len(timesteps), timesteps=tuple(timesteps))
        if steps is None:
            return changed
        if not 1 <= steps <= MAX_STEPS:
            raise ConfigError(f"steps is {steps}; choose 1 to {MAX_STEPS}.")
        return replace(changed, steps=steps, timesteps=())


def default_schedule(entry: CatalogEntry | None, denoiser: Denoiser) -> Schedule:
    """The catalogue's denoising steps, or those of models outside it."""
    if entry:
        return Schedule(entry.steps, tuple(entry.timesteps), entry.guidance)
    guidance = denoiser.default_guidance if denoiser.takes_guidance else 0.0
    return Schedule(DEFAULT_STEPS, guidance=guidance)
