"""Apply maps to a live model, at any strengths, within a context manager.

Maps at the same site are composed first, so each site applies one gain and one shift however many
maps are on; maps with bounds act one after another. They act only in the context (thread or task)
that entered `steer`, so two threads can steer one model with different maps at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lineas_core.errors import ConfigError, SiteError
from lineas_core.hooks import (
    ELSEWHERE,
    Around,
    Hook,
    find_sites,
    hooked_output,
    is_plain,
    one_row,
    site_hooks,
)
from lineas_core.maps.steering_map import (
    BatchAffine,
    LiveMap,
    Segment,
    Steering,
    compose_for_batch,
)
from lineas_core.numerics.norms import Norm, read_norm

# Classes of norms that act on the last dimension, such as those of queries and keys.
NORM_OF_LAST = re.compile(r"(Layer|RMS)Norm$")


@runtime_checkable
class HasModule(Protocol):
    """Anything that wraps a torch module, as the models of `lineas_core.models` do."""

    @property
    def module(self) -> nn.Module:
        """The torch module whose sites are steered."""
        ...


@runtime_checkable
class HasComponents(Protocol):
    """Anything whose networks have names, as those of a diffusers pipeline, which is no module."""

    @property
    def components(self) -> Mapping[str, Any]:
        """Its parts by name; those that are torch modules can be steered."""
        ...


@contextmanager
def steer(model: HasModule | HasComponents | nn.Module, maps: Steering) -> Iterator[None]:
    """Within the block, the model's sites output T_s(z) in place of z.

        T_s(z) = z + s * ((w - 1) * z + b)        composed in the order of `maps`

    computed in float32 and returned in the dtype of z. On a GPU, at a norm with one strength for
    all samples, the map is part of the norm's weights instead, which costs nothing and rounds them
    to their dtype, as `fold` does. Where a map has bounds, activations outside them stay as they
    are (`InBounds`). Blocks nest: the inner block's maps are applied after those of the outer
    block. Threads started inside the block are not steered unless they run in a copy of its
    context (`contextvars.copy_context().run`).

    On a pipeline a site `unet.conv_in` is `conv_in` of its component `unet`. It is also found on
    `pipeline.unet` itself, and `model.norm` on the `model` of a language model: if all sites are
    in one part and the module has no such part, the module is taken for the part.

    Args:
        model: a model of this library, a diffusers pipeline, or a torch module.
        maps: (map, strength) pairs, first applied first. A strength is one number, or a tensor
            with one number per sample of the batch. An empty list and strength 0 leave every
            output as it is, bit for bit.

    Raises:
        ConfigError: `model` is none of these.
        SiteError: the model has no such site, or one of another width.
        MapError: the maps do not fit each other.
    """
    module = _module_of(model)
    device = next((p.device for p in module.parameters()), None)
    composed = _named_as_in(module, compose_for_batch(maps))
    sites = find_sites(module, composed)
    with site_hooks(module, {n: _hook(n, sites[n], a, device) for n, a in composed.items()}):
        yield


def _hook(name: str, site: nn.Module, live: LiveMap, device: torch.device | None) -> Hook:
    """What applies a map at a site: a norm with other weights where that pays, or `at_site`."""
    last = norms_last(site)
    if not isinstance(live, BatchAffine):
        return InBounds(name, [part.on(device) for part in live], last=last)
    norm = _foldable(site, live) if folding_pays(device) else None
    affine = live.on(device)
    if norm is None or norm.width != affine.shift.shape[-1]:
        return AtSite(name, affine, last=last)
    return InNorm(name, affine, site, norm, last=last)


def at_site(name: str, live: LiveMap, *, last: bool = False) -> Hook:
    """What applies a map to the output of a site; the arguments are those of `AtSite`."""
    if isinstance(live, BatchAffine):
        return AtSite(name, live, last=last)
    return InBounds(name, live, last=last)


def norms_last(module: nn.Module) -> bool:
    """Whether a module is a norm of the last dimension, such as those of queries and keys."""
    return NORM_OF_LAST.search(type(module).__name__) is not None


def _foldable(site: nn.Module, affine: BatchAffine) -> Norm | None:
    """The norm whose weights can hold the map."""
    if affine.gain.ndim != 1 or not (affine.gain.any() or affine.shift.any()):
        return None
    norm = read_norm(site)
    weights = list(site.parameters())
    # Tensors of `torch.inference_mode` do not tell when they change.
    if norm is None or any(w.is_inference() or w.device.type == "meta" for w in weights):
        return None
    return norm if is_plain(site) else None


def folding_pays(device: torch.device | None) -> bool:
    """Whether a map is better part of a norm than behind it: on a GPU.

    On a CPU it saves 2 % of a token at most, and a strength would no longer give the same bits
    alone as beside others in a batch.
    """
    return device is not None and device.type == "cuda"


def _module_of(model: object) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, HasModule):
        return model.module
    if isinstance(model, HasComponents):
        parts = model.components.items()
        return nn.ModuleDict({name: part for name, part in parts if isinstance(part, nn.Module)})
    raise ConfigError(
        f"model is a {type(model).__name__}; give a model of load_model, a diffusers pipeline or a "
        "torch module."
    )


def _named_as_in(module: nn.Module, composed: dict[str, LiveMap]) -> Mapping[str, LiveMap]:
    """The maps by the names that `module` has for their sites, if it is the part they are in.

    Raises:
        SiteError: it is one of several such parts.
    """
    parts = dict.fromkeys(name.partition(".")[0] for name in composed)
    if not parts or parts.keys() & dict(module.named_children()).keys():
        return composed
    known = dict(module.named_modules())
    inner = {name: name.partition(".")[2] for name in composed}
    if not any(name and name in known for name in inner.values()):
        return composed
    if len(parts) > 1:
        raise SiteError(
            f"The map has sites in {' and '.join(parts)}, and this {type(module).__name__} is one "
            "of them. Steer the pipeline that has them all."
        )
    return {inner[name]: affine for name, affine in composed.items()}


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
        if z.ndim == 2 and len(scale) == 1:
            # The rows may be the tokens of the one sample.
            return scale[0], shift[0]
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


class InBounds:
    """Apply maps at one site in turn, each to the activations within its bounds.

        z + [lower < z < upper] * (T(z) - z)                              tokens
        z + [lower < mean(z) < upper] * (T(mean(z)) - mean(z))            channels of an image

    computed in float32 and returned in the dtype of z. Bounds come from pooled activations, which
    are means over height and width in an image: a channel moves as a whole, by what the map moves
    its mean, as in ml-act (`act/hooks/transport.py`, LinearOTHook).

    Args:
        name, last: as for `AtSite`.
        parts: the maps, first applied first.
    """

    __slots__ = ("_last", "_parts")

    def __init__(self, name: str, parts: Sequence[Segment], *, last: bool = False) -> None:
        self._last = last
        self._parts = [(AtSite(name, affine, last=last), bounds) for affine, bounds in parts]

    def __call__(self, z: Tensor) -> Tensor:
        """The steered activations; the argument and the errors are those of `AtSite`."""
        steered, image = z.float(), z.ndim == 4 and not self._last
        for apply, bounds in self._parts:
            if bounds is None:
                steered = apply(steered)
                continue
            seen = steered.mean((2, 3), keepdim=True) if image else steered
            moved, shape = apply(seen), (-1, 1, 1) if image else (-1,)
            lower, upper = (side.to(z.device).view(shape) for side in bounds)
            moved = torch.where((lower < seen) & (seen < upper), moved, seen)
            steered = steered + (moved - seen) if image else moved
        return steered.to(z.dtype)


class InNorm(AtSite, Around):
    """Apply a map as weights of the norm that it follows, without another kernel.

    The norm's own weights stay as they are, so threads with other maps are not disturbed. Should
    they change meanwhile, as when somebody trains them, so do these; and while gradients to them
    are taken the norm itself runs.

    Args:
        name, affine, last: as for `AtSite`; of shape (d,).
        module: the norm.
        norm: what it computes.
    """

    __slots__ = ("_bias", "_learns", "_module", "_norm", "_versions", "_weight")

    def __init__(
        self, name: str, affine: BatchAffine, module: nn.Module, norm: Norm, *, last: bool = False
    ) -> None:
        super().__init__(name, affine, last=last)
        self._module, self._norm = module, norm
        self._learns = any(weight.requires_grad for weight in module.parameters())
        self._fold()

    def _fold(self) -> None:
        weight, bias = self._norm.weight_of(self._module), self._norm.bias_of(self._module)
        scale, shift = self._scale, self._shift
        if weight is not None:
            scale, shift = scale.to(weight.device), shift.to(weight.device)
        self._weight: Tensor = scale if weight is None else scale * weight
        bias = shift if bias is None else scale * bias + shift
        self._bias = bias if self._norm.kind != "rms" or bool(bias.any()) else None
        self._versions = self._current()

    def _current(self) -> list[int]:
        return [
            weight._version for weight in self._module._parameters.values() if weight is not None
        ]

    def around(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The steered activations."""
        learning = self._learns and torch.is_grad_enabled()
        if learning or len(args) != 1 or kwargs or not self._takes(args[0]):
            return hooked_output(self._name, self, forward(*args, **kwargs))
        x = args[0]
        if self._versions != self._current():
            self._fold()
        if self._weight.device != x.device or (x.is_cuda and self._weight.dtype != x.dtype):
            self._place(x)
        return self._norm(x, self._weight, self._bias)

    def _takes(self, x: Tensor) -> bool:
        """Whether x has the shape of a norm's input, and the channels where the map has them."""
        channels = 1 if self._norm.kind == "group" else -1
        if x.shape[channels] != self._width:
            return False
        return (x.ndim, channels) == (4, self._channels) or (x.ndim != 4 and channels == -1)

    def _place(self, x: Tensor) -> None:
        """Move the weights to x; a GPU's kernels also want them in its dtype."""
        dtype = x.dtype if x.is_cuda else torch.float32
        self._weight = self._weight.to(x.device, dtype)
        if self._bias is not None:
            # The sum after an RMSNorm takes any dtype.
            kept = torch.float32 if self._norm.kind == "rms" else dtype
            self._bias = self._bias.to(x.device, kept)


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
