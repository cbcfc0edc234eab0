"""Ways to learn a map, each `fit(model, prompts, config) -> SteeringMap`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.methods import (
    actadd,
    aura,
    caa,
    gaussian_act,
    iti_c,
    lin_act,
    lineas,
    mean_act,
    repe,
)
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.steerable import Steerable
from lineas_core.training.config import TrainConfig


@runtime_checkable
class Fit(Protocol):
    """A method. It reads of the configuration what applies to it."""

    def __call__(self, model: Steerable, prompts: PromptSet, config: TrainConfig) -> SteeringMap:
        """Learn a map."""
        ...


METHODS: Mapping[str, Fit] = MappingProxyType(
    {
        "lineas": lineas.fit,
        "lin-act": lin_act.fit,
        "mean-act": mean_act.fit,
        "gaussian-act": gaussian_act.fit,
        "iti-c": iti_c.fit,
        "caa": caa.fit,
        "actadd": actadd.fit,
        "aura": aura.fit,
        "repe": repe.fit,
    }
)


def fit(
    method: str, model: Steerable, prompts: PromptSet, config: TrainConfig | None = None
) -> SteeringMap:
    """Learn a map by the named method.

    Args:
        method: a key of `METHODS`.
        model: its weights are not changed.
        prompts: the source and target.
        config: the settings; the model's shipped ones by default.

    Raises:
        ConfigError: there is no such method.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[method](model, prompts, config or TrainConfig.for_model(model))
