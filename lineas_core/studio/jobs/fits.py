"""Maps of the methods that have no steps: each is fitted in one go, as one slice of a job."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.fit import fit
from lineas_core.models.load import Model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steering import site_hooks
from lineas_core.studio.jobs.frames import Frame
from lineas_core.studio.jobs.previews import Previews
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent

SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit gives.

    Attributes:
        map: the map; None if it was stopped.
        seconds: that it took.
        preview: what the map does to the preview prompt; None without one.
    """

    map: SteeringMap | None
    seconds: float
    preview: Frame | None = None


def run_fit(
    model: Model,
    prompts: PromptSet,
    config: TrainConfig,
    method: str,
    *,
    should_stop: Callable[[], bool] | None = None,
    give_way: Callable[[], object] | None = None,
    preview_prompt: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> FitResult:
    """Fit a map by a method that has no steps.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings; a method reads of them what applies to it.
        method: a key of `TITLES`.
        should_stop: asked about twice a second.
        give_way: called as often.
        preview_prompt: of the frame; "" makes none.
        clock: a monotonic clock, in seconds.
    """
    began = clock()
    if should_stop is not None and should_stop():
        return FitResult(None, 0.0)
    try:
        with _looking_up(model, config, should_stop, give_way, clock):
            smap = fit(method, model, prompts, config)
    except _StoppedError:
        return FitResult(None, clock() - began)
    seconds = clock() - began
    # There is no loss: a frame of a fit is never one of a film.
    event = StepEvent(1, 1, math.nan, {}, smap.support(), seconds, 0.0)
    preview = Previews(model, preview_prompt, clock=clock).make(smap, event)
    return FitResult(smap, seconds, preview)


class _StoppedError(Exception):
    """Unwinds a fit that is to stop."""


@contextmanager
def _looking_up(
    model: Model,
    config: TrainConfig,
    should_stop: Callable[[], bool] | None,
    give_way: Callable[[], object] | None,
    clock: Callable[[], float],
) -> Iterator[None]:
    """Within the block the model stops its work now and then, to be stopped or to wait.

    A method does not know of jobs, but all of them run the model.
    """
    looked = clock()

    def look_up(z: Tensor) -> Tensor:
        nonlocal looked
        if clock() - looked >= SECONDS_BETWEEN_LOOKS:
            if should_stop is not None and should_stop():
                raise _StoppedError
            if give_way is not None:
                give_way()
            looked = clock()
        return z

    sites = model.sites(config.sites or model.default_sites)
    with site_hooks(model.module, dict.fromkeys(sites, look_up)):
        yield
