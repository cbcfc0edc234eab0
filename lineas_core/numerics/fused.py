"""Norms, maps and pooling as functions that torch.compile turns into one kernel each way.

A GPU computes these faster than it reads their inputs from memory, so a chain of them costs as many
trips to memory as it has kernels. All is computed in float32 and rounded to the input's dtype once.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lineas_core.maps.steering_map import BatchAffine
from lineas_core.numerics.norms import Norm

log = logging.getLogger(__name__)

# Kind, groups, eps and offset of a `Norm`, as constants of a kernel.
Formula = tuple[str, int, float, float]


class Compiled:
    """A function that is compiled when a GPU first runs it.

    Where it cannot be compiled, for want of a C compiler or of Triton, it runs as it is.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = function
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, x: Tensor, *args: Any) -> Any:
        """Run the function."""
        if not compiles(x):
            return self.plain(x, *args)
        if self._compiled is None:
            self._compiled = torch.compile(self.plain, fullgraph=True)
        try:
            return self._compiled(x, *args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            found = self.plain(x, *args)
            # The plain function works, so it was the compiler that failed.
            log.warning("%s runs uncompiled, and slower: %s", self.plain.__name__, error)
            self._compiled = self.plain
            return found


def compiles(x: Tensor) -> bool:
    """Whether compiled functions pay where x is: on a GPU that is worth their compilation.

    Compiling starts processes, which the daemons of ZeroGPU may not.
    """
    return x.is_cuda and not multiprocessing.current_process().daemon


def norm_of(x: Tensor, module: nn.Module, norm: Norm) -> Tensor:
    """The norm of x, in x's dtype.

    Args:
        x: (..., d), or (n, d, height, width) for a group norm.
        module: the norm, whose weights are frozen.
        norm: what it computes.
    """
    y: Tensor = _norm(x, *_given(module, norm))
    return y


def steered_norm(x: Tensor, module: nn.Module, norm: Norm, affine: BatchAffine) -> Tensor:
    """The norm of x with a map after it, in x's dtype.

    Args:
        x, module, norm: as for `norm_of`.
        affine: the map, of shape (d,).
    """
    z: Tensor = _steered(x, *_given(module, norm), *affine)
    return z


def pooled_norm(
    x: Tensor, module: nn.Module, norm: Norm, affine: BatchAffine, samples: int, pooling: str
) -> tuple[Tensor, Float[Tensor, "samples d"]]:
    """`steered_norm`, and its outputs pooled over each sample's tokens or places.

    Args:
        x, module, norm, affine: as for `steered_norm`. The tokens in x are equally many for each
            sample, and those of one sample follow one another.
        samples: number of samples in x.
        pooling: see `activations.pool`.
    """
    found: tuple[Tensor, Tensor] = _pooled(x, *_given(module, norm), *affine, samples, pooling)
    return found


def _given(module: nn.Module, norm: Norm) -> tuple[Any, ...]:
    formula = norm.kind, norm.groups, norm.eps, norm.offset
    return formula, getattr(module, "weight", None), getattr(module, "bias", None)


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, in gate's dtype (Shazeer 2020)."""
    mixed: Tensor = _silu(gate, up)
    return mixed


def gated_gelu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up with the tanh approximation, in gate's dtype (Shazeer 2020)."""
    mixed: Tensor = _gelu(gate, up)
    return mixed


def _normalised(x: Tensor, kind: str, groups: int, eps: float) -> Tensor:
    wide = x.float()
    if kind == "rms":
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if kind == "layer":
        return functional.layer_norm(wide, wide.shape[-1:], eps=eps)
    return functional.group_norm(wide, groups, eps=eps)


def _after(
    x: Tensor, formula: Formula, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, tuple[int, ...]]:
    """The norm in float32, and the shape in which vectors of its width broadcast against it."""
    kind, groups, eps, offset = formula
    y = _normalised(x, kind, groups, eps)
    shape = (-1, *[1] * (x.ndim - 2)) if kind == "group" else (-1,)
    if weight is not None:
        y = y * (weight.float() + offset).view(shape)
    if bias is not None:
        y = y + bias.float().view(shape)
    return y, shape


def _plain_norm(x: Tensor, formula: Formula, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return _after(x, formula, weight, bias)[0].to(x.dtype)


def _steered_norm(
    x: Tensor,
    formula: Formula,
    weight: Tensor | None,
    bias: Tensor | None,
    gain: Tensor,
    shift: Tensor,
) -> Tensor:
    y, shape = _after(x, formula, weight, bias)
    return (y + gain.view(shape) * y + shift.view(shape)).to(x.dtype)


def _pooled_norm(
    x: Tensor,
    formula: Formula,
    weight: Tensor | None,
    bias: Tensor | None,
    gain: Tensor,
    shift: Tensor,
    samples: int,
    pooling: str,
) -> tuple[Tensor, Tensor]:
    z = _steered_norm(x, formula, weight, bias, gain, shift)
    channels_first = formula[0] == "group"
    rows = z.flatten(2) if channels_first else z.reshape(samples, -1, z.shape[-1])
    along = 2 if channels_first else 1
    if pooling == "last":
        return z, rows[:, -1].float()
    wide = rows.float()
    return z, wide.mean(along) if pooling == "mean" else wide.amax(along)


def _gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    return (functional.silu(gate.float()) * up.float()).to(gate.dtype)


def _gated_gelu(gate: Tensor, up: Tensor) -> Tensor:
    return (functional.gelu(gate.float(), approximate="tanh") * up.float()).to(gate.dtype)


_norm, _steered, _pooled = Compiled(_plain_norm), Compiled(_steered_norm), Compiled(_pooled_norm)
_silu, _gelu = Compiled(_gated_silu), Compiled(_gated_gelu)
