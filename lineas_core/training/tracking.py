"""Log training curves with Accelerate's trackers, such as trackio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from lineas_core.errors import ConfigError

NAMES = {str(getattr(name, "value", name)): kind for name, kind in LOGGER_TYPE_TO_CLASS.items()}


def open_tracker(kind: str, project: str, **settings: Any) -> GeneralTracker:
    """Create and start a tracker.

    Args:
        kind: Accelerate's name for it: trackio, tensorboard, wandb, ...
        project: the project to log the run to.
        settings: passed to the tracker, such as `name` of the run.

    Raises:
        ConfigError: the tracker does not exist, or its package is not installed.
    """
    if kind not in NAMES:
        raise ConfigError(f"tracker is {kind!r}; choose one of {', '.join(sorted(NAMES))}.")
    # Trackers read the process index from PartialState, so it must be initialised first.
    PartialState()
    try:
        tracker = NAMES[kind](project, **settings)
        tracker.start()
    except ImportError as error:
        raise ConfigError(f"The tracker {kind} needs a package: pip install {kind}.") from error
    started: GeneralTracker = tracker
    return started


def log_run(
    tracker: GeneralTracker,
    config: Mapping[str, Any],
    losses: Sequence[float],
    supports: Sequence[float] = (),
) -> None:
    """Log a complete run and finish the tracker.

    Args:
        tracker: from `open_tracker`.
        config: settings of the run.
        losses: the loss before each step.
        supports: share of the neurons changed after each step; may be shorter than `losses`.
    """
    tracker.store_init_configuration(
        {k: v for k, v in config.items() if v is None or isinstance(v, (bool, str, float, int))}
    )
    for step, loss in enumerate(losses):
        values = {"loss": loss}
        if step < len(supports):
            values["support"] = supports[step]
        tracker.log(values, step=step + 1)
    tracker.finish()
