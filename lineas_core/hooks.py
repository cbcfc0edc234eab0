"""Hooks on the sites of a model: replace what a module puts out, within a block and a context.

Hooks act only in the context (thread or task) that entered the block, so two threads can have
different ones on the same model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from lineas_core.errors import SiteError

Hook = Callable[[Tensor], Tensor]

# Attribute of a function that stands in for a norm's `forward` and computes the same.
SAME = "computes_the_norm"
# Module -> the hook applied to its output in this context.
_hooks: ContextVar[Mapping[nn.Module, Hook]] = ContextVar(
    "lineas_hooks", default=MappingProxyType({})
)
# Sample index of each token, and the number of samples, while a model runs the tokens of all
# samples packed in one row (`models/language/packing.py`).
one_row: ContextVar[tuple[Tensor, int] | None] = ContextVar("lineas_one_row", default=None)
# Advice in errors about a map that does not fit the model.
ELSEWHERE = (
    "The map was made for another model, or for other weights of the one that it names; use it "
    "with those, or learn it again from its prompts."
)
# Modules whose `forward` is replaced because at least one block, in any thread, has a hook there.
_patches: dict[nn.Module, _Patch] = {}
_patches_lock = threading.Lock()


@contextmanager
def site_hooks(module: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Within the block, and in this context only, each site outputs `hook(its activations)`.

    Raises:
        SiteError: the model has no such site, or its output is not a tensor.
    """
    modules = find_sites(module, hooks)
    together = dict(_hooks.get())
    for name, hook in hooks.items():
        outer = together.get(modules[name])
        together[modules[name]] = partial(_apply_both, outer, hook) if outer else hook
    with ExitStack() as stack:
        for name in hooks:
            stack.enter_context(patched(name, modules[name]))
        stack.callback(_hooks.reset, _hooks.set(together))
        yield


def hooked(module: nn.Module) -> bool:
    """Whether this context has a hook at the module or at one of its submodules."""
    hooks = _hooks.get()
    return any(part in hooks for part in module.modules())


def find_sites(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Site name -> module.

    Raises:
        SiteError: the model has no module with one of these names.
    """
    known, names = dict(module.named_modules()), list(names)
    missing = [name for name in names if name not in known]
    if missing:
        raise SiteError(
            f"The model has no module {missing[0]!r} ({len(missing)} of {len(names)} sites are "
            f"missing). {ELSEWHERE}"
        )
    return {name: known[name] for name in names}


class Around:
    """A hook that calls the module's forward itself, or something in its place."""

    __slots__ = ()

    def around(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What the module puts out."""
        raise NotImplementedError

    def __call__(self, z: Tensor) -> Tensor:
        """What the module puts out in place of z, which it computed, where hooks are nested."""
        raise NotImplementedError


def is_plain(norm: nn.Module) -> bool:
    """Whether a norm's `forward` is its class's own, or says that it computes the same."""
    patch = _patches.get(norm)
    own = patch.original if patch else norm.__dict__.get("forward")
    # accelerate's hooks copy the mark of the forward that they replace.
    return own is None or (getattr(own, SAME, False) and not hasattr(norm, "_hf_hook"))


@dataclass
class _Patch:
    """A module whose `forward` is replaced by `_hooked_forward`.

    Replacing `forward` is cheaper than a forward hook of torch, which takes the slow path of
    `nn.Module.__call__` and costs as much as the steering itself.

    Attributes:
        original: the instance's own `forward`; None if it had only that of its class.
        blocks: number of active blocks with a hook at the module; at 0 the patch is removed.
    """

    original: Callable[..., Any] | None
    blocks: int = 0


@contextmanager
def patched(name: str, module: nn.Module) -> Iterator[None]:
    """Within the block, the module looks for a hook whenever it runs, in any thread."""
    with _patches_lock:
        patch = _patches.get(module)
        if patch is None:
            # A partial, unlike a closure, is copied with the module.
            forward = partial(_hooked_forward, name, module, module.forward)
            patch = _patches[module] = _Patch(module.__dict__.get("forward"))
            module.forward = forward
        patch.blocks += 1
    try:
        yield
    finally:
        with _patches_lock:
            patch.blocks -= 1
            if not patch.blocks:
                del _patches[module], module.forward
                if patch.original is not None:
                    module.forward = patch.original


def _hooked_forward(
    name: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    hook = _hooks.get().get(module)
    if hook is None:
        return forward(*args, **kwargs)
    if isinstance(hook, Around):
        return hook.around(forward, args, kwargs)
    return hooked_output(name, hook, forward(*args, **kwargs))


def hooked_output(name: str, hook: Hook, output: Any) -> Any:
    """A module's output, with its activations replaced by `hook` of them.

    Raises:
        SiteError: the output is not a tensor, and no tuple that begins with one.
    """
    if isinstance(output, Tensor):
        return hook(output)
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return (hook(output[0]), *output[1:])
    raise SiteError(
        f"Site {name!r} puts out {type(output).__name__}, not a tensor. Choose a module whose "
        "output is one, such as a norm or linear layer."
    )


def _apply_both(outer: Hook, inner: Hook, z: Tensor) -> Tensor:
    return inner(outer(z))
