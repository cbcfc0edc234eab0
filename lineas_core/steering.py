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
        name: AtSite(name, BatchAffine(affine.gain.to(device), affine.shift.to(device)))
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


class AtSite:
    """What a map does at one site: (1 + gain) * z + shift, along the last dimension, or the
    channels of a 4-D z; computed in float32 and returned in the dtype of z.

    It stands between two layers at every token, so it does as little as it can there: one kernel.

    Args:
        name: of the site, for the error.
        affine: of shape (d,), or (batch, d).
    """

    def __init__(self, name: str, affine: BatchAffine) -> None:
        self._name, self._width = name, affine.shift.shape[-1]
        self._scale, self._shift = 1 + affine.gain, affine.shift

    def __call__(self, z: Tensor) -> Tensor:
        """The steered activations.

        Args:
            z: shape (batch, ..., d), or (batch, d, height, width).

        Raises:
            SiteError: z has another width or another batch size.
        """
        scale, shift = self._scale, self._shift
        # Where a model lies on several devices, so do its sites.
        if scale.device != z.device:
            scale, shift = scale.to(z.device), shift.to(z.device)
        channels = 1 if z.ndim == 4 else z.ndim - 1
        if z.shape[channels] != self._width:
            raise SiteError(
                f"Site {self._name!r} has width {z.shape[channels]} on this model and "
                f"{self._width} in the map. The map was made for another model; use it with the "
                "model it names."
            )
        if scale.ndim == 2:
            scale, shift = self._of_each_sample(scale, shift, z, channels)
        elif z.ndim == 4:
            scale, shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)
        if torch.is_grad_enabled():
            steered: Tensor = _Apply.apply(z, scale, shift)
            return steered
        return _affine(z, scale, shift)

    def _of_each_sample(
        self, scale: Tensor, shift: Tensor, z: Tensor, channels: int
    ) -> tuple[Tensor, Tensor]:
        """Scale and shift with the dimensions of z."""
        packed = one_row.get()
        batch = packed[1] if packed else z.shape[0]
        if batch != len(scale):
            raise SiteError(
                f"Site {self._name!r} sees a batch of {batch}, but {len(scale)} strengths were "
                "given. Give one strength per sample, or one number for all."
            )
        if packed:
            sample = packed[0].to(z.device)
            return scale[sample].unsqueeze(0), shift[sample].unsqueeze(0)
        shape = [1] * z.ndim
        shape[0], shape[channels] = batch, self._width
        return scale.view(shape), shift.view(shape)


def _affine(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    steered = torch.addcmul(shift, scale, z)
    # A conversion to the same dtype costs nearly as much as the kernel.
    return steered if steered.dtype == z.dtype else steered.to(z.dtype)


class _Apply(torch.autograd.Function):
    """scale * z + shift in float32: one kernel, that keeps z alone for the way back."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(z, scale)
        return _affine(z, scale, shift)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        z, scale = ctx.saved_tensors
        wide = gradient.float()
        back, along, summed = None, None, None
        if ctx.needs_input_grad[0]:
            back = (wide * scale).to(z.dtype)
        if ctx.needs_input_grad[1]:
            along = (wide * z).sum_to_size(scale.shape)
        if ctx.needs_input_grad[2]:
            summed = wide.sum_to_size(scale.shape)
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
