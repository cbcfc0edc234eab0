"""ZeroGPU: on a Space that lends a GPU by the call, GPU work runs inside `spaces.GPU` functions.

There a call runs in another process, its arguments and its result are pickled, and it is cut off
after the seconds it has asked for. Elsewhere the same functions run as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Asked for where nothing else is known.
SECONDS = 60


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
