"""Slices of training on a lent GPU; each call requests a duration based on earlier calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gradio as gr

from lineas_core.errors import TrainingError
from lineas_core.models.load import Model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.jobs.context import SliceRunner
from lineas_core.studio.jobs.device.gpu import SECONDS, lends_gpu, on_gpu
from lineas_core.studio.jobs.device.model_cache import ModelCache
from lineas_core.studio.jobs.device.quotas import Quotas
from lineas_core.studio.jobs.fits import run_fit
from lineas_core.studio.jobs.slices import SliceResult, expected_seconds, run_slice
from lineas_core.training.config import TrainConfig
from lineas_core.training.state import TrainState

T = TypeVar("T")

# Minimum duration to request. Shorter calls are served sooner.
MIN_SECONDS = 5
# Requested over expected duration; a call that takes longer than requested is cut off.
MARGIN = 1.5


def slices_on_gpu(
    model_cache: ModelCache, environment: Mapping[str, str], quotas: Quotas
) -> SliceRunner | None:
    """A runner of slices inside GPU functions on a ZeroGPU Space; None elsewhere.

    With None, slices run in the worker.

    Args:
        model_cache: where the other process looks up the model by its id.
        environment: such as `os.environ`.
        quotas: whom the calls are charged to.
    """
    if not lends_gpu(environment):
        return None

    def call(
        model: str, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        return function(model_cache.get(model), *args, **kwargs)

    return LentSlices(call, environment, quotas).run


class LentSlices:
    """Runs calls on a lent GPU, requesting a duration estimated from earlier calls.

    Args:
        call: takes a model's id, a function, and its positional and keyword arguments.
        environment: such as `os.environ`.
        quotas: whom the calls are charged to.
    """

    def __init__(
        self, call: Callable[..., Any], environment: Mapping[str, str], quotas: Quotas
    ) -> None:
        # (model id, function name) -> maximum seconds that a call took besides training steps.
        self._beside: dict[tuple[str, str], float] = {}
        self._call = on_gpu(call, environment, self._seconds)
        self._quotas = quotas

    def run(
        self, owner: str, function: Callable[..., T], model: Model, *args: Any, **kwargs: Any
    ) -> T:
        """Run a function as `SliceRunner` describes, and record how long the call took.

        Raises:
            TrainingError: no GPU is lent; the message is ZeroGPU's.
        """
        began = time.monotonic()
        try:
            found: T = self._quotas.charge(owner, self._call, model.id, function, args, kwargs)
        except gr.Error as error:
            raise TrainingError(str(error.message)) from error
        took = time.monotonic() - began
        if isinstance(found, SliceResult) and found.state is not None:
            took -= found.state.seconds - _seconds_before(*args, **kwargs)
        key = (model.id, function.__name__)
        self._beside[key] = max(took, self._beside.get(key, 0.0))
        return found

    def _seconds(
        self, model: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> int:
        beside = self._beside.get((model, function.__name__))
        # The duration of a fit depends on its method, so earlier fits do not predict it.
        if beside is None or function is run_fit:
            return SECONDS
        steps = expected_seconds(*args, **kwargs) if function is run_slice else 0.0
        return min(SECONDS, max(MIN_SECONDS, math.ceil(MARGIN * (beside + steps))))


def _seconds_before(
    prompts: PromptSet, config: TrainConfig, state: TrainState | None, **_: Any
) -> float:
    return state.seconds if state is not None else 0.0
