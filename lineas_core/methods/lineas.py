"""LinEAS (NeurIPS 2025): train all sites jointly, end to end. See `training/trainer.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lineas_core.diagnostics.health import check_health
from lineas_core.diagnostics.report import HealthReport
from lineas_core.errors import TrainingError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.fit import find_trainer
from lineas_core.methods.names import DEFAULT_METHOD
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.events import StepEvent
from lineas_core.training.loop import UnstableError
from lineas_core.training.state import TrainState
from lineas_core.training.trainer import Trainer

TRAINER = Trainer


@dataclass(frozen=True)
class TrainResult:
    """The result of training.

    Attributes:
        map: the learned map.
        losses: the loss before each step.
        health: the health report, measured on training and held-out prompts.
        seconds: time spent training, without the health report.
        cancelled: True if training was stopped before the last step.
    """

    map: SteeringMap
    losses: list[float]
    health: HealthReport
    seconds: float
    cancelled: bool = False


class DivergedError(TrainingError):
    """Training stopped because the loss diverged; `result` is the result at the last good state."""

    def __init__(self, message: str, result: TrainResult) -> None:
        super().__init__(message)
        self.result = result


def train(
    model: Steerable,
    prompts: Samples,
    config: TrainConfig | None = None,
    *,
    method: str = DEFAULT_METHOD,
    on_event: Callable[[StepEvent], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    state: TrainState | None = None,
) -> TrainResult:
    """Train a map to the last step, or until `should_stop` returns True.

    Args:
        model: from `load_model`; its weights are not changed.
        prompts: the source and target.
        config: the settings; `TrainConfig.for_model(model, method)` by default.
        method: one that trains in steps: "lineas", or "lineas+".
        on_event: called with a `StepEvent` after each step.
        should_stop: called before each step. With several processes, the first one's answer counts.
        state: of an earlier run, to resume from.

    Raises:
        ConfigError: the method has no steps, or the settings, prompts or model do not suit it.
        DivergedError: the loss diverged; `error.result` is the result at the last good state.
    """
    trainer = find_trainer(method)(model, prompts, config, state)
    try:
        for event in trainer.run(should_stop):
            if on_event:
                on_event(event)
    except UnstableError as error:
        raise DivergedError(str(error), _result(trainer)) from error
    return _result(trainer)


def fit(model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
    """Train to the last step and return the map, without a health report."""
    return run_to_end(TRAINER(model, prompts, config))


def run_to_end(trainer: Trainer) -> SteeringMap:
    """Run the remaining steps and return the map."""
    for _ in trainer.run():
        pass
    return trainer.map


def _result(trainer: Trainer) -> TrainResult:
    smap, config = trainer.map, trainer.config
    health = check_health(
        trainer.model,
        smap,
        trainer.train_prompts,
        trainer.held_out,
        pooling=config.pooling,
        batch_size=config.batch_size,
    )
    return TrainResult(smap, list(trainer.losses), health, trainer.seconds, not trainer.done)
