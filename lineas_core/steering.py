"""Apply maps to a live model, at any strengths, within a context manager.

Maps at the same site are composed first, so each site applies one gain and one shift however many
maps are on. They act only in the context (thread or task) that entered `steer`, so two threads can
steer one model with different maps at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lineas_core.errors import SiteError
from lineas_core.maps.steering_map import BatchAffine, Steering, compose_for_batch

Hook = Callable[[Tensor], Tensor]

# Classes of norms that act on the last dimension, such as those of queries and keys.
NORM_OF_LAST = re.compile(r"(Layer|RMS)Norm$")
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


@runtime_checkable
class HasModule(Protocol):
    """Anything that wraps a torch module, as the models of `lineas_core.models` do."""

    @property
    def module(self) -> nn.Module:
        """The torch module whose sites are steered."""
        ...


@contextmanager
def steer(model: HasModule | nn.Module, maps: Steering) -> Iterator[None]:
    """Within the block, the model's sites output T_s(z) in place of z.

        T_s(z) = z + s * ((w - 1) * z + b)        composed in the order of `maps`

    computed in float32 and returned in the dtype of z. Blocks nest: the inner block's maps are
    applied after those of the outer block. Threads started inside the block are not steered unless
    they run in a copy of its context (`contextvars.copy_context().run`).

    Args:
        model: a model of this library, or the torch module itself.
        maps: (map, strength) pairs, first applied first. A strength is one number, or a tensor
            with one number per sample of the batch. An empty list and strength 0 leave every
            output as it is, bit for bit.

    Raises:
        SiteError: the model has no such site, or one of another width.
        MapError: the maps do not fit each other.
    """
    module = model if isinstance(model, nn.Module) else model.module
    device = next((p.device for p in module.parameters()), None)
    composed = compose_for_batch(maps)
    sites = find_sites(module, composed)
    hooks = {
        name: AtSite(
            name,
            BatchAffine(affine.gain.to(device), affine.shift.to(device)),
            last=NORM_OF_LAST.search(type(sites[name]).__name__) is not None,
        )
        for name, affine in composed.items()
    }
    with site_hooks(module, hooks):
        yield


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
            stack.enter_context(_patched(name, modules[name]))
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


class AtSite:
    """Apply a map at one site: (1 + gain) * z + shift.

    Acts along the last dimension, or along the channels of a 4-D z. Computed in float32 and
    returned in the dtype of z. It runs between two layers at every token, so it launches a single
    kernel.

    Args:
        name: of the site, for error messages.
        affine: of shape (d,), or (batch, d).
        last: whether a 4-D z holds heads, (batch, tokens, heads, d), and not an image.
    """

    # Layer weights evict this object from the CPU cache between tokens, so keep it small.
    __slots__ = ("_channels", "_name", "_scale", "_shift", "_varies", "_width")

    def __init__(self, name: str, affine: BatchAffine, *, last: bool = False) -> None:
        self._channels = -1 if last else 1
        self._name, self._width = name, affine.shift.shape[-1]
        self._scale, self._shift = 1 + affine.gain, affine.shift
        self._varies = affine.gain.ndim == 2

    def __call__(self, z: Tensor) -> Tensor:
        """The steered activations.

        Args:
            z: shape (batch, ..., d), or (batch, d, height, width).

        Raises:
            SiteError: z has another width or another batch size.
        """
        shape = z.shape
        channels = self._channels if len(shape) == 4 else -1
        if shape[channels] != self._width:
            raise SiteError(
                f"Site {self._name!r} has width {shape[channels]} on this model and "
                f"{self._width} in the map. {ELSEWHERE}"
            )
        scale, shift = self._scale, self._shift
        if self._varies:
            scale, shift = self._per_sample(z, channels)
        elif channels == 1:
            scale, shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)
        try:
            if torch.is_grad_enabled():
                steered: Tensor = _Apply.apply(z, scale, shift)
                return steered
            return _affine(z, scale, shift)
        except RuntimeError:
            # A model may be spread over several devices. Checking the device at every token would
            # cost as much as the kernel, so move the parameters only after a failure.
            if scale.device == z.device:
                raise
            self._scale, self._shift = self._scale.to(z.device), self._shift.to(z.device)
            return self(z)

    def _per_sample(self, z: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """Each sample's scale and shift, in a shape that broadcasts against z."""
        scale, shift = self._scale, self._shift
        packed = one_row.get()
        batch = packed[1] if packed else z.shape[0]
        if batch != len(scale):
            raise SiteError(
                f"Site {self._name!r} sees a batch of {batch}, but {len(scale)} strengths were "
                "given. Give one strength per sample, or one number for all."
            )
        if packed:
            sample = packed[0].to(scale.device)
            shape = [1, -1, *[1] * (z.ndim - 3), self._width]
            return scale[sample].view(shape), shift[sample].view(shape)
        shape = [1] * z.ndim
        shape[0], shape[channels] = batch, self._width
        return scale.view(shape), shift.view(shape)


def _affine(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    # Calling `to`, even with the same dtype, costs nearly as much as the kernel.
    if z.dtype == scale.dtype:
        return torch.addcmul(shift, scale, z)
    if z.is_cuda:
        # A GPU's kernel computes in float32 and writes the dtype of z, so that no float32 copy of
        # an image's activations goes to memory and back. A CPU would make that copy, and slowly.
        return torch.addcmul(shift, scale, z, out=torch.empty_like(z))
    return torch.addcmul(shift, scale, z).to(z.dtype)


class _Apply(torch.autograd.Function):
    """scale * z + shift in float32, as one kernel that saves only z and scale for backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(z, scale)
        return _affine(z, scale, shift)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        z, scale = ctx.saved_tensors
        gradient = gradient.float()
        grad_z, grad_scale, grad_shift = None, None, None
        if ctx.needs_input_grad[0]:
            grad_z = (gradient * scale).to(z.dtype)
        if ctx.needs_input_grad[1]:
            grad_scale = (gradient * z).sum_to_size(scale.shape)
        if ctx.needs_input_grad[2]:
            grad_shift = gradient.sum_to_size(scale.shape)
        return grad_z, grad_scale, grad_shift


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
def _patched(name: str, module: nn.Module) -> Iterator[None]:
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
    output = forward(*args, **kwargs)
    hook = _hooks.get().get(module)
    if hook is None:
        return output
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
