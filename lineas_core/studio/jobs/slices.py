"""Slices of a training run: each starts from a `TrainState` and returns another.

A slice may therefore run in another process, where a GPU is lent for a limited time; otherwise a
single slice runs to the last step. Either way the map is bit for bit that of an uninterrupted run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from lineas_core.errors import ConfigError
from lineas_core.methods.fit import find_trainer
from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.models.load import Model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.jobs.frames import Frame, Sample
from lineas_core.studio.jobs.interrupts import StoppedError, looking_up, parts_of_layers
from lineas_core.studio.jobs.previews import Previews
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent
from lineas_core.training.loop import UnstableError
from lineas_core.training.state import TrainState
from lineas_core.training.trainer import Trainer

SECONDS_BETWEEN_CHECKPOINTS = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SliceResult:
    """Result of a slice of training.

    Attributes:
        state: the state after its last step, on the CPU; None if it was stopped before there was
            one.
        events: one event per step; empty if `on_event` received them.
        done: whether all steps of the run are done.
        preview: the last frame, if one was made.
        diverged: message for the user if the loss diverged; `state` is then the last good one.
    """

    state: TrainState | None
    events: tuple[StepEvent, ...]
    done: bool
    preview: Frame | None
    diverged: str = ""


def run_slice(
    model: Model,
    prompts: PromptSet,
    config: TrainConfig,
    state: TrainState | None,
    *,
    method: str = DEFAULT_METHOD,
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
    """Train from `state` until all steps are done, the budget is spent, or `should_stop` is true.

    Args:
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings.
        state: the state to resume from; one of another run is ignored, and training starts anew.
        method: one that trains in steps.
        budget: seconds after which no further step begins; at least one step is done.
        should_stop: called before each step, and on a CPU within it about twice a second: a step
            that is stopped leaves the state of the one before.
        on_event: called after each step.
        give_way: called before each step.
        on_state: called with the state every two seconds of training.
        on_preview: called with a frame after the first step and about every three seconds; without
            it only one frame is made, at the end of the slice.
        preview_prompt: the prompt of the preview frames; "" makes no frames.
        unsteered: the untouched model's output for that prompt, if it is known.
        clock: a monotonic clock, in seconds.
    """
    parts: list[str] = []
    if model.device.type == "cpu" and should_stop is not None:
        # A GPU's steps are short, and Python does not see their parts.
        parts = parts_of_layers(model.module, model.sites(config.sites or model.default_sites))
    with looking_up(model.module, parts, should_stop, clock=clock):
        try:
            trainer = _trainer(find_trainer(method), model, prompts, config, state)
        except StoppedError:
            return SliceResult(state, (), False, None)
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
        with looking_up(model.module, parts, should_stop, clock=clock):
            for newest in trainer.run(ends_here):
                if on_event is None:
                    events.append(newest)
                else:
                    on_event(newest)
                if on_state is not None and trainer.seconds - saved >= SECONDS_BETWEEN_CHECKPOINTS:
                    on_state(trainer.state)
                    saved = trainer.seconds
                at_map = newest.step == len(trainer.losses)
                if at_map and on_preview is not None and previews.due(trainer.seconds):
                    if give_way is not None:
                        give_way()
                    if (preview := previews.make(trainer.map, newest)) is not None:
                        on_preview(preview)
    except StoppedError:
        stopped = True
    except UnstableError as error:
        diverged = str(error)
    shown = preview is not None and newest is not None and preview.step == newest.step
    if newest is not None and not (stopped or diverged or shown):
        preview = previews.make(trainer.map, newest)
        if preview is not None and on_preview is not None:
            on_preview(preview)
    # Stopped before its first step, the trainer may be in the middle of measuring its rate.
    reached = trainer.state if trainer.losses else state
    return SliceResult(reached, tuple(events), trainer.done, preview, diverged)


def _trainer(
    make: type[Trainer],
    model: Model,
    prompts: PromptSet,
    config: TrainConfig,
    state: TrainState | None,
) -> Trainer:
    """A trainer that resumes from the state, if it is of this run."""
    try:
        return make(model, prompts, config, state)
    except ConfigError:
        if state is None:
            raise
        log.warning("a checkpoint is ignored, and training starts anew", exc_info=True)
        return make(model, prompts, config)


def expected_seconds(
    prompts: PromptSet,
    config: TrainConfig,
    state: TrainState | None,
    *,
    budget: float,
    **_: object,
) -> float:
    """Estimated seconds of the steps of a slice with these arguments, from the pace so far.

    The last step may begin just before the budget is spent, so it is added to the budget.
    """
    if state is None or not state.losses:
        return budget
    pace = state.seconds / len(state.losses)
    return min(budget + pace, (config.steps - len(state.losses)) * pace)
