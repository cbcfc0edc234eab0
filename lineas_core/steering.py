"""Put maps onto a live model, at any strengths, and take them off again.

Maps at the same site are composed before they touch the model, so a site holds one gain and one
shift however many maps are on. The hooks act only in the context (thread or task) that entered
`steer`, so two threads can steer one model with different maps at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lineas_core.errors import SiteError
from lineas_core.maps import BatchAffine, SteeringMap, Strength, compose_for_batch

Steering = Sequence[tuple[SteeringMap, Strength]]

_active: ContextVar[frozenset[object]] = ContextVar("lineas_active_steering", default=frozenset())
# The sample of each token and the number of samples, while a model runs the tokens of all of them
# in one row (`models/packing.py`).
one_row: ContextVar[tuple[Tensor, int] | None] = ContextVar("lineas_one_row", default=None)
# torch numbers its hooks from one counter without a lock.
_registering = threading.Lock()


@runtime_checkable
class HasModule(Protocol):
    """Anything that wraps a torch module, as the models of `lineas_core.models` do."""

    @property
    def module(self) -> nn.Module:
        """The torch module whose sites are steered."""
        ...


@contextmanager
def steer(model: HasModule | nn.Module, maps: Steering) -> Iterator[None]:
    """Within the block, the model's sites put out T_s(z) in place of z.

        T_s(z) = z + s * ((w - 1) * z + b)        composed in the order of `maps`

    computed in float32 and returned in the dtype of z. Blocks nest: the inner one's maps come
    after the outer one's. Threads started inside the block are not steered unless they run in a
    copy of its context (`contextvars.copy_context().run`).

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
    hooks = {
        name: partial(
            apply_affine, name, BatchAffine(affine.gain.to(device), affine.shift.to(device))
        )
        for name, affine in compose_for_batch(maps).items()
    }
    with site_hooks(module, hooks):
        yield


@contextmanager
def site_hooks(
    module: nn.Module, hooks: Mapping[str, Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Within the block, and in this context only, each site puts out `hook(its activations)`.

    Raises:
        SiteError: the model has no such site, or it does not put out a tensor.
    """
    modules = find_sites(module, hooks)
    token = object()
    with ExitStack() as stack:
        for name, function in hooks.items():
            with _registering:
                handle = modules[name].register_forward_hook(_scoped(name, function, token))
            stack.callback(handle.remove)
        reset = _active.set(_active.get() | {token})
        stack.callback(_active.reset, reset)
        yield


def find_sites(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Site name -> module.

    Raises:
        SiteError: the model has no module of one of the names.
    """
    known, names = dict(module.named_modules()), list(names)
    missing = [name for name in names if name not in known]
    if missing:
        raise SiteError(
            f"The model has no module {missing[0]!r} ({len(missing)} of {len(names)} sites are "
            "missing). The map was made for another model; use it with the model it names."
        )
    return {name: known[name] for name in names}


def apply_affine(name: str, affine: BatchAffine, z: Tensor) -> Tensor:
    """z + gain * z + shift in float32, along the last dimension, or the channels of a 4-D z.

    Args:
        name: the site, for the error.
        affine: gain and shift of shape (d,), or (batch, d).
        z: shape (batch, ..., d), or (batch, d, height, width).

    Raises:
        SiteError: z has another width or another batch size.
    """
    channels = 1 if z.ndim == 4 else z.ndim - 1
    packed = one_row.get() if affine.gain.ndim == 2 else None
    batch, width = packed[1] if packed else z.shape[0], z.shape[channels]
    if width != affine.gain.shape[-1]:
        raise SiteError(
            f"Site {name!r} has width {width} on this model and {affine.gain.shape[-1]} in the "
            "map. The map was made for another model; use it with the model it names."
        )
    # Where a model lies on several devices, so do its sites.
    gain, shift = (part.to(z.device) for part in affine)
    if gain.ndim == 2 or z.ndim == 4:
        shape = [1] * z.ndim
        shape[channels] = width
        if gain.ndim == 2:
            if batch != len(gain):
                raise SiteError(
                    f"Site {name!r} sees a batch of {batch}, but {len(gain)} strengths were "
                    "given. Give one strength per sample, or one number for all."
                )
            shape[0] = batch
            if packed:
                shape = [1, -1, width]
                sample = packed[0].to(z.device)
                gain, shift = gain[sample], shift[sample]
        gain, shift = gain.view(shape), shift.view(shape)
    if not torch.is_grad_enabled():
        return _affine(z, gain, shift)
    steered: Tensor = _Apply.apply(z, gain, shift)
    return steered


def _affine(z: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    wide = z.float()
    return torch.addcmul(shift, gain, wide).add_(wide).to(z.dtype)


class _Apply(torch.autograd.Function):
    """z + gain * z + shift in float32: a few kernels, that keep z alone for the way back."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(z, gain)
        return _affine(z, gain, shift)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        z, gain = ctx.saved_tensors
        wide = gradient.float()
        back, along, summed = None, None, None
        if ctx.needs_input_grad[0]:
            back = torch.addcmul(wide, gain, wide).to(z.dtype)
        if ctx.needs_input_grad[1]:
            along = (wide * z).sum_to_size(gain.shape)
        if ctx.needs_input_grad[2]:
            summed = wide.sum_to_size(gain.shape)
        return back, along, summed


def _scoped(name: str, function: Callable[[Tensor], Tensor], token: object) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if token not in _active.get():
            return None
        tensor = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(tensor, Tensor):
            raise SiteError(
                f"Site {name!r} puts out {type(output).__name__}, not a tensor. Choose a module "
                "whose output is one, such as a norm or linear layer."
            )
        changed = function(tensor)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook
