"""Put maps onto a live model, at any strengths, and take them off again.

Maps at the same site are composed before they touch the model, so a site holds one gain and one
shift however many maps are on. They act only in the context (thread or task) that entered
`steer`, so two threads can steer one model with different maps at once.
"""

from __future__ import annotations

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

# Module -> what its output goes through in this context.
_hooks: ContextVar[Mapping[nn.Module, Hook]] = ContextVar(
    "lineas_hooks", default=MappingProxyType({})
)
# The sample of each token and the number of samples, while a model runs the tokens of all of them
# in one row (`models/packing.py`).
one_row: ContextVar[tuple[Tensor, int] | None] = ContextVar("lineas_one_row", default=None)
# What to do with a map that fits no module here.
ELSEWHERE = (
    "The map was made for another model, or for other weights of the one that it names; use it "
    "with those, or learn it again from its prompts."
)
# The modules at which some block of some thread has hooks.
_gates: dict[nn.Module, _Gate] = {}
_counting = threading.Lock()


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
def site_hooks(module: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Within the block, and in this context only, each site puts out `hook(its activations)`.

    Raises:
        SiteError: the model has no such site, or it does not put out a tensor.
    """
    modules = find_sites(module, hooks)
    together = dict(_hooks.get())
    for name, hook in hooks.items():
        outer = together.get(modules[name])
        together[modules[name]] = partial(_in_turn, outer, hook) if outer else hook
    with ExitStack() as stack:
        for name in hooks:
            stack.enter_context(_gate(name, modules[name]))
        stack.callback(_hooks.reset, _hooks.set(together))
        yield


def hooked(module: nn.Module) -> bool:
    """Whether this context has a hook at the module, or within it."""
    hooks = _hooks.get()
    return any(part in hooks for part in module.modules())


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
            f"missing). {ELSEWHERE}"
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

    # All that a token needs here was driven out of the caches by the weights: the less, the better.
    __slots__ = ("_name", "_scale", "_shift", "_varies", "_width")

    def __init__(self, name: str, affine: BatchAffine) -> None:
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
        channels = 1 if len(shape) == 4 else -1
        if shape[channels] != self._width:
            raise SiteError(
                f"Site {self._name!r} has width {shape[channels]} on this model and "
                f"{self._width} in the map. {ELSEWHERE}"
            )
        scale, shift = self._scale, self._shift
        if self._varies:
            scale, shift = self._of_each_sample(z, channels)
        elif channels == 1:
            scale, shift = scale.view(-1, 1, 1), shift.view(-1, 1, 1)
        try:
            if torch.is_grad_enabled():
                steered: Tensor = _Apply.apply(z, scale, shift)
                return steered
            return _affine(z, scale, shift)
        except RuntimeError:
            # Where a model lies on several devices, so do its sites; to ask at each token which
            # it is costs as much as the kernel.
            if scale.device == z.device:
                raise
            self._scale, self._shift = self._scale.to(z.device), self._shift.to(z.device)
            return self(z)

    def _of_each_sample(self, z: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """Scale and shift with the dimensions of z."""
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


@dataclass
class _Gate:
    """What a module's `forward` was before `_through` took its place, and for how many blocks.

    A forward hook of torch sends each call the long way through `nn.Module.__call__`, which costs
    as much as the steering itself.
    """

    before: Callable[..., Any] | None
    blocks: int = 0


@contextmanager
def _gate(name: str, module: nn.Module) -> Iterator[None]:
    with _counting:
        gate = _gates.get(module)
        if gate is None:
            # A partial, unlike a closure, is copied with the module.
            forward = partial(_through, name, module, module.forward)
            gate = _gates[module] = _Gate(module.__dict__.get("forward"))
            module.forward = forward
        gate.blocks += 1
    try:
        yield
    finally:
        with _counting:
            gate.blocks -= 1
            if not gate.blocks:
                del _gates[module], module.forward
                if gate.before is not None:
                    module.forward = gate.before


def _through(
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


def _in_turn(outer: Hook, inner: Hook, z: Tensor) -> Tensor:
    return inner(outer(z))
