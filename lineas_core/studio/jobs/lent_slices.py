"""Slices of training on a lent GPU: each call asks for as long as earlier ones took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lineas_core.models.load import Model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.jobs.context import SliceRunner
from lineas_core.studio.jobs.device.gpu import SECONDS, lends_gpu, on_gpu
from lineas_core.studio.jobs.device.model_cache import ModelCache
from lineas_core.studio.jobs.fits import run_fit
from lineas_core.studio.jobs.slices import SliceResult, expected_seconds, run_slice
from lineas_core.training.config import TrainConfig
from lineas_core.training.state import TrainState

T = TypeVar("T")

# A shorter call is served sooner.
MIN_SECONDS = 5
# A call may take so many times what is expected before it is cut off.
MARGIN = 1.5


def slices_on_gpu(model_cache: ModelCache, environment: Mapping[str, str]) -> SliceRunner | None:
    """Where slices of training run: inside GPU functions on a ZeroGPU Space, else in the worker.

    Args:
        model_cache: where the other process finds the model by its id.
        environment: such as `os.environ`.
    """
    if not lends_gpu(environment):
        return None

    def call(
        model: str, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        return function(model_cache.get(model), *args, **kwargs)

    return _Lent(call, environment).run


class _Lent:
    """Calls where a GPU is lent, each for as long as earlier ones say that it will take.

    Args:
        call: takes a model's id, a function and its arguments.
        environment: such as `os.environ`.
    """

    def __init__(self, call: Callable[..., Any], environment: Mapping[str, str]) -> None:
        # Model and function -> the most seconds that a call took beside its training steps.
        self._beside: dict[tuple[str, str], float] = {}
        self._call = on_gpu(call, environment, self._seconds)

    def run(self, function: Callable[..., T], model: Model, *args: Any, **kwargs: Any) -> T:
        """A `SliceRunner`."""
        began = time.monotonic()
        found: T = self._call(model.id, function, args, kwargs)
        took = time.monotonic() - began
        if isinstance(found, SliceResult):
            took -= found.state.seconds - _seconds_before(*args, **kwargs)
        key = (model.id, function.__name__)
        self._beside[key] = max(took, self._beside.get(key, 0.0))
        return found

    def _seconds(
        self, model: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> int:
        beside = self._beside.get((model, function.__name__))
        # How long a fit takes is the method's; what another one took tells nothing.
        if beside is None or function is run_fit:
            return SECONDS
        steps = expected_seconds(*args, **kwargs) if function is run_slice else 0.0
        return min(SECONDS, max(MIN_SECONDS, math.ceil(MARGIN * (beside + steps))))


def _seconds_before(
    prompts: PromptSet, config: TrainConfig, state: TrainState | None, **_: Any
) -> float:
    return state.seconds if state is not None else 0.0
