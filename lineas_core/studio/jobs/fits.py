"""Fit maps by the methods that have no steps; a fit is a single slice of a job."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.fit import fit
from lineas_core.models.load import Model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.jobs.frames import Frame
from lineas_core.studio.jobs.interrupts import StoppedError, looking_up
from lineas_core.studio.jobs.previews import Previews
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent


@dataclass(frozen=True, eq=False)
class FitResult:
    """Result of a fit.

    Attributes:
        map: the map; None if the fit was stopped.
        seconds: duration of the fit.
        preview: the preview prompt's output without and with the map; None without a prompt.
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
        config: the settings; a method reads those that apply to it.
        method: a key of `TITLES`.
        should_stop: called about twice a second; the fit stops if it returns True.
        give_way: called about twice a second, to let answers run first.
        preview_prompt: the prompt of the preview frame; "" makes no frame.
        clock: a monotonic clock, in seconds.
    """
    began = clock()
    if should_stop is not None and should_stop():
        return FitResult(None, 0.0)
    try:
        sites = model.sites(config.sites or model.default_sites)
        with looking_up(model.module, sites, should_stop, give_way, clock):
            smap = fit(method, model, prompts, config)
    except StoppedError:
        return FitResult(None, clock() - began)
    seconds = clock() - began
    # A fit has no loss, hence NaN; its frame is never part of a film.
    event = StepEvent(1, 1, math.nan, {}, smap.support(), seconds, 0.0)
    preview = Previews(model, preview_prompt, clock=clock).make(smap, event)
    return FitResult(smap, seconds, preview)
