"""ZeroGPU: on a Space that lends a GPU by the call, GPU work runs inside `spaces.GPU` functions.

There a call runs in another process, its arguments and its result are pickled, and it is cut off
after the seconds it has asked for. Elsewhere the same functions run as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from lineas_core.models import Model
from lineas_core.studio.shelf import Shelf
from lineas_core.studio.slices import SliceRunner

P = ParamSpec("P")
R = TypeVar("R")

SECONDS = 60
T = TypeVar("T")


def lends_gpu(environment: Mapping[str, str]) -> bool:
    """Whether this is a ZeroGPU Space."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


def on_gpu(
    function: Callable[P, R], environment: Mapping[str, str], seconds: int = SECONDS
) -> Callable[P, R]:
    """The function as it must be called for its GPU work.

    Args:
        function: takes and returns what can be pickled.
        environment: such as `os.environ`.
        seconds: it may take at most.
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

    lent = on_gpu(call, environment)

    def run(function: Callable[..., T], model: Model, *args: Any, **kwargs: Any) -> T:
        return lent(model.id, function, args, kwargs)

    return run
