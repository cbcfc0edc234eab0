"""Slices of a training run: each starts from a `TrainState` and gives back another.

So a slice may run in another process, where a GPU is lent for a while only; where it need not, one
slice has no end but the last step. Either way the map is, bit for bit, that of an undisturbed run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from lineas_core.diagnostics.calibration import calibrate, with_calibration
from lineas_core.diagnostics.health import check_health
from lineas_core.diagnostics.report import HealthReport
from lineas_core.diagnostics.strength import recommend_strength
from lineas_core.diagnostics.strength_sweep import strength_sweep
from lineas_core.diagnostics.style_knowledge import drawn_styles, style_knowledge, takes_away
from lineas_core.diagnostics.style_verdict import with_style
from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.load import Model
from lineas_core.prompts.prompt_set import PromptSet, Sides
from lineas_core.studio.jobs.frames import Frame, Sample
from lineas_core.studio.jobs.previews import Previews
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent
from lineas_core.training.loop import UnstableError
from lineas_core.training.provenance import describe_map
from lineas_core.training.state import TrainState
from lineas_core.training.trainer import Trainer

SECONDS_A_CHECKPOINT = 2.0

T = TypeVar("T")
log = logging.getLogger(__name__)


@runtime_checkable
class SliceRunner(Protocol):
    """Calls `function(model, *args, **kwargs)` where the device is, and gives back what it gives.

    The function is `run_slice`, `check_run` or `check_map` of this module, or `run_fit`; but for
    the model, which is to be found again by its id, all that goes in and comes out can be pickled.
    `run_slice` is given its `budget` in seconds; preparing, which comes before, and a preview,
    after, take some more.
    """

    def __call__(self, function: Callable[..., T], model: Model, *args: Any, **kwargs: Any) -> T:
        """Call it."""
        ...


@dataclass(frozen=True, eq=False)
class SliceResult:
    """What a slice of training gives.

    Attributes:
        state: after its last step, on the CPU.
        events: of its steps; empty where `on_event` took them.
        done: all steps of the run are done.
        preview: the last frame, if one was made.
        diverged: what to tell a person if the loss went off; `state` is then the last good one.
    """

    state: TrainState
    events: tuple[StepEvent, ...]
    done: bool
    preview: Frame | None
    diverged: str = ""


@dataclass(frozen=True, eq=False)
class CheckedMap:
    """A run's map, and what it does to held-out prompts, where that could be measured."""

    map: SteeringMap
    health: HealthReport | None
    recommended: float | None


def run_slice(
    model: Model,
    prompts: PromptSet,
    config: TrainConfig,
    state: TrainState | None,
    *,
    budget: float | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_event: Callable[[StepEvent], object] | None = None,
    give_way: Callable[[], object] | None = None,
    on_state: Callable[[TrainState], object] | None = None,
    on_preview: Callable[[Frame], object] | None = None,
    preview_prompt: str = "",
    unsteered: Sample | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SliceResult:
    """Train from `state` until all is done, the time is up, or `should_stop` says so.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings.
        state: to go on from; one of another run is left aside, and training starts anew.
        budget: seconds after which no further step begins; at least one is made.
        should_stop: asked before each step.
        on_event: told each step.
        give_way: called before each step.
        on_state: given the state every two seconds of training.
        on_preview: given a frame after the first step and about every three seconds; without it
            there is one at the end of the slice only.
        preview_prompt: of the frames; "" makes none.
        unsteered: the untouched model's answer to it, where it is known.
        clock: seconds from any start.
    """
    try:
        trainer = Trainer(model, prompts, config, state)
    except ConfigError:
        if state is None:
            raise
        log.warning("a checkpoint is left aside, and training starts anew", exc_info=True)
        trainer = Trainer(model, prompts, config)
    previews = Previews(model, preview_prompt, unsteered, clock)
    events: list[StepEvent] = []
    newest: StepEvent | None = None
    preview: Frame | None = None
    diverged, stopped = "", False
    began, saved = clock(), trainer.seconds

    def ends_here() -> bool:
        nonlocal stopped
        if give_way is not None:
            give_way()
        stopped = should_stop is not None and should_stop()
        spent = budget is not None and newest is not None and clock() - began >= budget
        return stopped or spent

    try:
        for newest in trainer.run(ends_here):
            if on_event is None:
                events.append(newest)
            else:
                on_event(newest)
            if on_state is not None and trainer.seconds - saved >= SECONDS_A_CHECKPOINT:
                on_state(trainer.state)
                saved = trainer.seconds
            if on_preview is not None and previews.due(trainer.seconds):
                if give_way is not None:
                    give_way()
                if (preview := previews.make(trainer.map, newest)) is not None:
                    on_preview(preview)
    except UnstableError as error:
        diverged = str(error)
    shown = preview is not None and newest is not None and preview.step == newest.step
    if newest is not None and not (stopped or diverged or shown):
        preview = previews.make(trainer.map, newest)
        if preview is not None and on_preview is not None:
            on_preview(preview)
    return SliceResult(trainer.state, tuple(events), trainer.done, preview, diverged)


def expected_seconds(
    prompts: PromptSet,
    config: TrainConfig,
    state: TrainState | None,
    *,
    budget: float,
    **_: object,
) -> float:
    """Of the steps of a slice with these arguments, by the pace of those before it.

    The last one may begin just before the budget is spent.
    """
    if state is None or not state.losses:
        return budget
    pace = state.seconds / len(state.losses)
    return min(budget + pace, (config.steps - len(state.losses)) * pace)


def check_run(
    model: Model, prompts: PromptSet, config: TrainConfig, state: TrainState, *, recommend: bool
) -> CheckedMap:
    """The map of a run as it stands, its health, and the strength to start with if it is asked."""
    smap = SteeringMap(state.sites, describe_map(model, prompts, "lineas", config))
    return check_map(model, prompts, config, smap, recommend=recommend)


def check_map(
    model: Model, prompts: PromptSet, config: TrainConfig, smap: SteeringMap, *, recommend: bool
) -> CheckedMap:
    """A map with its health; with its calibration and the strength to start with if it is asked."""
    training, held_out = prompts.split(config.holdout, config.seed)
    health, strength = None, None
    how: dict[str, Any] = {"pooling": config.pooling, "batch_size": config.batch_size}
    try:
        health = check_health(model, smap, training, held_out, **how)
        if recommend:
            sweep = strength_sweep(model, smap, held_out.source)
            found = recommend_strength(model, smap, held_out, sweep=sweep, **how)
            strength, concept = found.strength, smap.info.concept
            whole = Sides(prompts.source, prompts.target)
            if isinstance(model, DiffusionModel) and not takes_away(concept, whole):
                known = style_knowledge(model, concept, whole)
                health = with_style(health, concept, found, known, drawn_styles(model.entry))
            curve = calibrate(model, smap, held_out.source, sweep=sweep)
            smap = with_calibration(smap, curve)
    except Exception:
        # What was learned is not lost because it could not be measured.
        log.exception("a map is kept without all of its figures")
    return CheckedMap(smap, health, strength)
