"""Training curves for those who keep them: through Accelerate's trackers, such as trackio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from lineas_core.errors import ConfigError

NAMES = {str(getattr(name, "value", name)): kind for name, kind in LOGGER_TYPE_TO_CLASS.items()}


def open_tracker(kind: str, project: str, **settings: Any) -> GeneralTracker:
    """A tracker that has been started.

    Args:
        kind: as Accelerate names it: trackio, tensorboard, wandb, ...
        project: that the run belongs to.
        settings: of that tracker, such as `name` of the run.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    if kind not in NAMES:
        raise ConfigError(f"tracker is {kind!r}; choose one of {', '.join(sorted(NAMES))}.")
    # Trackers ask it which process they are in.
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
    """Give a tracker a whole run, and finish it.

    Args:
        tracker: that has been started.
        config: settings of the run.
        losses: before each step.
        supports: share of the neurons changed after each step; may be shorter.
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
