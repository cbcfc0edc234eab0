"""Frozen norms and gated activations of a model with fewer kernels, and less saved for backward.

    y = w * x / r      r = sqrt(mean(x^2) + eps)
    dL/dx = (g - x * mean(g * x) / r^2) / r      g = w * dL/dy

is an RMSNorm (Zhang and Sennrich 2019). By default, autograd saves three float32 copies of x per
norm and runs twice as many kernels. On a CPU, forward runs the module's own code, so its outputs do
not change; on a GPU, norms and gated activations are compiled while gradients are taken, since
there the copies between their kernels cost more than all else but the matrix products.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineas_core.hooks import SAME
from lineas_core.numerics import fused
from lineas_core.numerics.norms import Norm, read_norm

Gated = Callable[[Tensor, Tensor], Tensor]

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
# Compiled gated activation -> the activation in it.
GATED: dict[Gated, Callable[[Tensor], Tensor]] = {
    fused.gated_silu: functional.silu,
    fused.gated_gelu: partial(functional.gelu, approximate="tanh"),
}


def lighten(module: nn.Module) -> None:
    """Give a model's frozen RMSNorms and gated activations the forward and backward above.

    Other modules do not change, nor do those whose `forward` is replaced already.
    """
    for part in module.modules():
        if "forward" in vars(part) or any(p.requires_grad for p in part.parameters()):
            continue
        norm = read_norm(part)
        gated = None if norm else _gated(part)
        if norm and norm.kind == "rms":
            part.forward = partial(_normalise, part, norm)
            setattr(part.forward, SAME, True)
        elif gated:
            part.forward = partial(_mix, part, gated)


def _normalise(module: Any, norm: Norm, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs or not (torch.is_grad_enabled() and x.requires_grad):
        plain: Tensor = type(module).forward(module, x, *args, **kwargs)
        return plain
    if fused.compiles(x):
        return fused.norm_of(x, module, norm)
    lean: Tensor = _Norm.apply(x, module, norm)
    return lean


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any, norm: Norm) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module, ctx.norm = module, norm
        y: Tensor = type(module).forward(module, x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,), norm = ctx.saved_tensors, ctx.norm
        weight = norm.weight_of(ctx.module)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = (length.square() / x.shape[-1] + norm.eps).rsqrt_()
        unit = x * inverse
        g = gradient * weight
        along = torch.linalg.vecdot(g, unit).div_(x.shape[-1]).unsqueeze(-1)
        return g.addcmul_(unit, along, value=-1).mul_(inverse).to(x.dtype), None, None


def _gated(part: Any) -> Gated | None:
    """The activation of an MLP that computes down_proj(act_fn(gate_proj(x)) * up_proj(x)).

    Its own code is run with small layers in place of its own, since MLPs of other formulas have
    layers of the same names.
    """
    if {name for name, _ in part.named_children()} != {*PROJECTIONS, "act_fn"}:
        return None
    random = torch.Generator().manual_seed(0)
    small = copy.copy(part)
    small._modules = {name: nn.Linear(4, 4, bias=False) for name in PROJECTIONS}
    for layer in small._modules.values():
        layer.weight.data.normal_(generator=random)
    small._modules["act_fn"] = part.act_fn
    x = torch.randn(8, 4, generator=random)
    with torch.no_grad():
        found = type(part).forward(small, x)
        for gated, plain in GATED.items():
            expected = small.down_proj(plain(small.gate_proj(x)) * small.up_proj(x))
            if torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
                return gated
    return None


def _mix(part: Any, gated: Gated, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs or not (fused.compiles(x) and torch.is_grad_enabled() and x.requires_grad):
        plain: Tensor = type(part).forward(part, x, *args, **kwargs)
        return plain
    mixed: Tensor = part.down_proj(gated(part.gate_proj(x), part.up_proj(x)))
    return mixed
