"""Norm layers as a formula: what a norm module computes, found by its class or by running it.

    rms      y = w * x / sqrt(mean(x^2) + eps)                    (Zhang and Sennrich 2019)
    layer    y = w * (x - mean(x)) / sqrt(var(x) + eps) + b       (Ba et al. 2016)
    group    the same over groups of the channels and all places  (Wu and He 2018)

with w = offset + weight, as some families store weight - 1. A map after a norm is a norm with other
weights: (1 + gain) * y + shift has the weight (1 + gain) * w and the bias (1 + gain) * b + shift.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["rms", "layer", "group"]
# Class, names of parameters and eps -> the formula of such a module, apart from its weights.
_known: dict[tuple[object, ...], _Formula | None] = {}


class _Formula(NamedTuple):
    kind: Kind
    offset: float


@dataclass(frozen=True)
class Norm:
    """What a norm module computes.

    Attributes:
        kind: see above.
        width: number of coordinates d: the last dimension, or the channels of a group norm.
        eps: added to the mean square.
        offset: added to the stored weight.
        groups: of a group norm; 1 for the others.
    """

    kind: Kind
    width: int
    eps: float
    offset: float = 0.0
    groups: int = 1

    def weight_of(self, module: nn.Module) -> Float[Tensor, " d"] | None:
        """w in float32, on the module's device; None if it has none."""
        weight = getattr(module, "weight", None)
        return None if weight is None else weight.detach().float() + self.offset

    def bias_of(self, module: nn.Module) -> Float[Tensor, " d"] | None:
        """b in float32, on the module's device; None if it has none."""
        bias = getattr(module, "bias", None)
        return None if bias is None else bias.detach().float()

    def __call__(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The norm of x by torch's own kernels, with w and b.

        Args:
            x: (..., d), or (batch, d, ...) for a group norm.
            weight, bias: shape (d,), in a dtype that torch's kernels take beside x's. They are w
                and b, not what the module stores.
        """
        if self.kind == "group":
            return functional.group_norm(x, self.groups, weight, bias, self.eps)
        if self.kind == "layer":
            return functional.layer_norm(x, (self.width,), weight, bias, self.eps)
        y = functional.rms_norm(x, (self.width,), weight, self.eps)
        if bias is None:
            return y
        # A GPU's kernel adds in float32 and writes the dtype of y.
        return y.add_(bias) if not torch.is_grad_enabled() else (y + bias).to(y.dtype)


def read_norm(module: nn.Module) -> Norm | None:
    """What a norm module computes; None if it is no norm of the kinds above.

    torch's own classes are known. Others are run, on one of their own in float32 on the CPU, since
    there are dozens and only their code says which.
    """
    eps = next(
        (
            float(value)
            for name in ("eps", "variance_epsilon")
            if isinstance(value := getattr(module, name, None), int | float)
        ),
        None,
    )
    if type(module) is nn.GroupNorm:
        return Norm("group", module.num_channels, module.eps, 0.0, module.num_groups)
    if type(module) is nn.LayerNorm:
        flat = len(module.normalized_shape) == 1
        return Norm("layer", module.normalized_shape[0], module.eps) if flat else None
    if eps is None:
        return None
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    if weight is None or weight.ndim != 1 or weight.device.type == "meta":
        return None
    if parameters.keys() - {"weight", "bias"} or [*module.children(), *module.buffers()]:
        return None
    # A class may compute something else with other settings.
    settings = sorted((k, v) for k, v in vars(module).items() if isinstance(v, int | float | str))
    key = type(module), *parameters, *settings
    if key not in _known:
        _known[key] = _formula_of(module, parameters, eps)
    formula = _known[key]
    return None if formula is None else Norm(formula.kind, len(weight), eps, formula.offset)


def _formula_of(module: nn.Module, parameters: Mapping[str, Tensor], eps: float) -> _Formula | None:
    """The formula with which a module's outputs agree, if there is one."""
    probe = copy.deepcopy(module).to("cpu", torch.float32).requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    width = len(parameters["weight"])
    drawn = {name: torch.randn(width, generator=random) for name in parameters}
    for name, value in drawn.items():
        getattr(probe, name).copy_(value)
    # A mean unlike 0, and a length so small that eps counts.
    x = (torch.randn(3, width, generator=random) + 0.5) * eps**0.5
    try:
        # By its class: the module's own `forward` may be replaced, and calling it runs hooks.
        found = type(probe).forward(probe, x)
    except (TypeError, ValueError, RuntimeError, AssertionError):
        return None
    for kind in ("rms", "layer"):
        for offset in (0.0, 1.0):
            formula = Norm(kind, width, eps, offset)
            expected = formula(x, drawn["weight"] + offset, drawn.get("bias"))
            alike = isinstance(found, Tensor) and found.shape == x.shape
            if alike and torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
                return _Formula(kind, offset)
    return None
