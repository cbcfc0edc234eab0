"""Stop work within a forward or backward pass, where a step of it may take minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lineas_core.hooks import Around, site_hooks
from lineas_core.recompute import layers_of

SECONDS_BETWEEN_LOOKS = 0.5


def parts_of_layers(module: nn.Module, sites: Sequence[str]) -> list[str]:
    """Parts of a model's layers to look up from while training.

    None is a site or has one, and none is a layer: the hooks of training there run the module
    themselves, which they can only where no other hook is.

    Args:
        module: the model.
        sites: the sites of the training, in the order in which the model runs them.
    """
    return [
        name
        for layer in layers_of(module, sites)
        for child, part in module.get_submodule(layer).named_children()
        if not _has_site(name := f"{layer}.{child}", sites) and any(part.children())
    ]


def _has_site(name: str, sites: Sequence[str]) -> bool:
    return any(site == name or site.startswith(f"{name}.") for site in sites)


class StoppedError(BaseException):
    """Raised inside the model to stop what runs it.

    Derived from BaseException so that `except Exception` in model code does not catch it.
    """


@contextmanager
def looking_up(
    module: nn.Module,
    modules: Sequence[str],
    should_stop: Callable[[], bool] | None,
    give_way: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Within the block, and in this context only, look up about twice a second from the model.

    The methods of training know nothing about jobs, but all of them run the model.

    Args:
        module: the model.
        modules: names of parts of it that are looked up from, before and after their gradients.
        should_stop: called to find out whether to raise `StoppedError`.
        give_way: called to let answers run first.
        clock: a monotonic clock, in seconds.
    """
    looked = clock()

    def look_up() -> None:
        nonlocal looked
        if clock() - looked >= SECONDS_BETWEEN_LOOKS:
            if should_stop is not None and should_stop():
                raise StoppedError
            if give_way is not None:
                give_way()
            looked = clock()

    with site_hooks(module, dict.fromkeys(modules, _LookUp(look_up))):
        yield


class _LookUp(Around):
    """Calls a function whenever a module runs, or gradients reach its output."""

    __slots__ = ("_look",)

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def around(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = forward(*args, **kwargs)
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            self(first)
        return output

    def __call__(self, z: Tensor) -> Tensor:
        self._look()
        if z.requires_grad and torch.is_grad_enabled():
            z.register_hook(self._gradient)
        return z

    def _gradient(self, gradient: Tensor) -> None:
        self._look()
