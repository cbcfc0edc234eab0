"""ZeroGPU: on a Space that lends a GPU per call, GPU work runs inside `spaces.GPU` functions.

Such a call runs in another process, its arguments and its result are pickled, and it is cut off
after the duration that it requested. Elsewhere the same functions run unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Duration to request if no estimate is known.
SECONDS = 60


def lends_gpu(environment: Mapping[str, str]) -> bool:
    """Whether this is a ZeroGPU Space."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


def on_gpu(
    function: Callable[P, R],
    environment: Mapping[str, str],
    seconds: int | Callable[P, int] = SECONDS,
) -> Callable[P, R]:
    """Wrap a function in `spaces.GPU` on a ZeroGPU Space; elsewhere return it unchanged.

    Args:
        function: its arguments and result must be picklable.
        environment: such as `os.environ`.
        seconds: maximum duration of a call, or a function of the same arguments that returns it.
    """
    if not lends_gpu(environment):
        return function
    import spaces  # type: ignore[import-not-found,import-untyped,unused-ignore]

    decorate: Any = spaces.GPU(duration=seconds)
    wrapped: Callable[P, R] = decorate(function)
    return wrapped
