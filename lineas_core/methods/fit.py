"""Learn a map by a method's name."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, runtime_checkable

from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods.names import check_method
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steerable import Steerable
from lineas_core.training.config import TrainConfig


@runtime_checkable
class Fit(Protocol):
    """What the module of a method offers as `fit`. It reads of the settings what applies to it."""

    def __call__(self, model: Steerable, prompts: PromptSet, config: TrainConfig) -> SteeringMap:
        """Learn a map."""
        ...


def find_method(name: str) -> Fit:
    """The `fit` of a method's own module, which is imported only when it is asked for.

    Raises:
        ConfigError: there is no such method.
    """
    check_method(name)
    found: Fit = import_module(f"lineas_core.methods.{name.replace('-', '_')}").fit
    return found


def fit(
    method: str, model: Steerable, prompts: PromptSet, config: TrainConfig | None = None
) -> SteeringMap:
    """Learn a map by the named method.

    Args:
        method: a key of `TITLES`.
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings; the model's shipped ones by default.

    Raises:
        ConfigError: there is no such method.
    """
    return find_method(method)(model, prompts, config or TrainConfig.for_model(model))
