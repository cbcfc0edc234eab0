"""ZeroGPU: on a Space that lends a GPU by the call, GPU work runs inside `spaces.GPU` functions.

There a call runs in another process, its arguments and its result are pickled, and it is cut off
after the seconds it has asked for. Elsewhere the same functions run as they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from lineas_core.models.load import Model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.jobs.fits import run_fit
from lineas_core.studio.jobs.model_cache import Shelf
from lineas_core.studio.jobs.slices import SliceResult, SliceRunner, expected_seconds, run_slice
from lineas_core.training.config import TrainConfig
from lineas_core.training.state import TrainState

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# Asked for where nothing is known yet, and at most; a shorter call is served sooner.
SECONDS = 60
FEWEST_SECONDS = 5
# A call may take so many times what is expected before it is cut off.
MARGIN = 1.5


def lends_gpu(environment: Mapping[str, str]) -> bool:
    """Whether this is a ZeroGPU Space."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


def on_gpu(
    function: Callable[P, R],
    environment: Mapping[str, str],
    seconds: int | Callable[P, int] = SECONDS,
) -> Callable[P, R]:
    """The function as it must be called for its GPU work.

    Args:
        function: takes and returns what can be pickled.
        environment: such as `os.environ`.
        seconds: it may take at most; a function of the same arguments says so for each call.
    """
    if not lends_gpu(environment):
        return function
    import spaces  # type: ignore[import-not-found,import-untyped,unused-ignore]

    decorate: Any = spaces.GPU(duration=seconds)
    wrapped: Callable[P, R] = decorate(function)
    return wrapped


def slices_on_gpu(shelf: Shelf, environment: Mapping[str, str]) -> SliceRunner | None:
    """Where slices of training run: inside GPU functions on a ZeroGPU Space, else in the worker.

    Args:
        shelf: where the other process finds the model by its id.
        environment: such as `os.environ`.
    """
    if not lends_gpu(environment):
        return None

    def call(
        model: str, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        return function(shelf.get(model), *args, **kwargs)

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
        return min(SECONDS, max(FEWEST_SECONDS, math.ceil(MARGIN * (beside + steps))))


def _seconds_before(
    prompts: PromptSet, config: TrainConfig, state: TrainState | None, **_: Any
) -> float:
    return state.seconds if state is not None else 0.0
