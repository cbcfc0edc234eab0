"""Learn a map with a method given by name."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, runtime_checkable

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.names import STEPWISE, check_method, module_of
from lineas_core.steerable import Samples, Steerable
from lineas_core.training.config import TrainConfig
from lineas_core.training.trainer import Trainer


@runtime_checkable
class Fit(Protocol):
    """The `fit` function of a method's module. It reads only the settings that apply to it."""

    def __call__(self, model: Steerable, prompts: Samples, config: TrainConfig) -> SteeringMap:
        """Learn a map."""
        ...


def find_method(name: str) -> Fit:
    """The `fit` function of a method. Its module is imported lazily.

    Raises:
        ConfigError: the method does not exist.
    """
    check_method(name)
    found: Fit = import_module(f"lineas_core.methods.{module_of(name)}").fit
    return found


def find_trainer(name: str) -> type[Trainer]:
    """The `TRAINER` of a method that trains in steps. Its module is imported lazily.

    Raises:
        ConfigError: the method does not exist, or is fitted in one go.
    """
    check_method(name)
    if name not in STEPWISE:
        raise ConfigError(
            f"method is {name!r}, which has no steps; choose {' or '.join(sorted(STEPWISE))} here, "
            "or use fit."
        )
    found: type[Trainer] = import_module(f"lineas_core.methods.{module_of(name)}").TRAINER
    return found


def fit(
    method: str, model: Steerable, prompts: Samples, config: TrainConfig | None = None
) -> SteeringMap:
    """Learn a map with the named method.

    Args:
        method: a key of `TITLES`.
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings; `TrainConfig.for_model(model, method)` by default.

    Raises:
        ConfigError: the method does not exist.
    """
    return find_method(method)(model, prompts, config or TrainConfig.for_model(model, method))
