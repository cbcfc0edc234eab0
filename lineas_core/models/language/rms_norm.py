"""Frozen RMSNorms that save only their input for backward.

    y = w * x / r      r = sqrt(mean(x^2) + eps)
    dL/dx = (g - x * mean(g * x) / r^2) / r      g = w * dL/dy

(Zhang and Sennrich 2019.) By default, autograd saves three float32 copies of x per norm and runs
twice as many kernels. Forward runs the module's own code, so its outputs do not change.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Class -> offset that it adds to its stored weight.
OFFSETS = {"LlamaRMSNorm": 0.0, "MistralRMSNorm": 0.0, "Qwen2RMSNorm": 0.0, "Gemma2RMSNorm": 1.0}


def lighten(module: nn.Module) -> None:
    """Give every frozen RMSNorm in a model the backward above; other norms do not change."""
    for norm in module.modules():
        if type(norm).__name__ in OFFSETS and not norm.weight.requires_grad:
            norm.forward = partial(_forward, norm)


def _forward(norm: nn.Module, x: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        plain: Tensor = type(norm).forward(norm, x)
        return plain
    lean: Tensor = _Norm.apply(x, norm)
    return lean


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.norm = norm
        y: Tensor = type(norm).forward(norm, x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,), norm = ctx.saved_tensors, ctx.norm
        eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        weight = norm.weight.float() + OFFSETS[type(norm).__name__]
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = (length.square() / x.shape[-1] + eps).rsqrt_()
        unit = x * inverse
        g = gradient * weight
        along = torch.linalg.vecdot(g, unit).div_(x.shape[-1]).unsqueeze(-1)
        return g.addcmul_(unit, along, value=-1).mul_(inverse).to(x.dtype), None
