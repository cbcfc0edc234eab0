"""ZeroGPU: on a Space that lends a GPU per call, GPU work runs inside `spaces.GPU` functions.

Such a call runs in another process, its arguments and its result are pickled, and it is cut off
after the duration that it requested. Elsewhere the same functions run unchanged.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from lineas_core.errors import LineasError

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

    streams = inspect.isgeneratorfunction(inspect.unwrap(function))
    there = _streamed(function) if streams else _called(function)
    lent: Any = spaces.GPU(duration=seconds)(functools.wraps(function)(there))

    def called(*args: P.args, **kwargs: P.kwargs) -> Any:
        return _found(lent(*args, **kwargs))

    def streamed(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        with closing(lent(*args, **kwargs)) as items:
            yield from map(_found, items)

    return functools.wraps(function)(streamed if streams else called)


@dataclass(frozen=True)
class _Refused:
    """An error of ours on its way out of the other process, which sends only names of errors."""

    error: LineasError


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    def there(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except LineasError as error:
            return _Refused(error)

    return there


def _streamed(function: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def there(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except LineasError as error:
            yield _Refused(error)

    return there


def _found(item: Any) -> Any:
    if isinstance(item, _Refused):
        raise item.error
    return item
