"""The gradient of frozen norms and gated activations, against autograd's through the modules."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lineas_core as lc
from lineas_core.models.language.kernels import lighten
from lineas_core.numerics import fused
from lineas_core.numerics.norms import read_norm

FAMILIES = ("llama", "mistral", "qwen2", "gemma2")


def a_norm(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A norm of a loaded model, with random weights."""
    module = lc.load_model(str(folder), device="cpu").module.to(dtype)
    norm: nn.Module = next(m for m in module.modules() if (n := read_norm(m)) and n.kind == "rms")
    with torch.no_grad():
        norm.weight.copy_(torch.randn(norm.weight.shape, generator=seeded()))
    return norm


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def plain(norm: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = type(norm).forward(norm, x)
    return y


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_autograds(small_models: dict[str, Path], family: str) -> None:
    norm = a_norm(small_models[family])
    x = torch.randn(2, 5, 16, generator=seeded()).requires_grad_()
    g = torch.rand(2, 5, 16, generator=seeded())
    y = norm(x)
    (own,) = torch.autograd.grad(y, x, g)
    (theirs,) = torch.autograd.grad(plain(norm, x), x, g)
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-6)
    assert torch.equal(y, plain(norm, x))


@pytest.mark.parametrize("family", FAMILIES)
def test_in_half_precision_it_is_as_near_as_autograds_to_the_exact_one(
    small_models: dict[str, Path], family: str
) -> None:
    norm = a_norm(small_models[family], torch.bfloat16)
    x = torch.randn(200, 16, generator=seeded()).bfloat16().requires_grad_()
    g = torch.rand(200, 16, generator=seeded()).bfloat16()
    (own,) = torch.autograd.grad(norm(x), x, g)
    (theirs,) = torch.autograd.grad(plain(norm, x), x, g)
    exact = norm.float()
    wide = x.detach().float().requires_grad_()
    (truth,) = torch.autograd.grad(plain(exact, wide), wide, g.float())
    assert own.dtype == torch.bfloat16
    assert (own - truth).norm() <= 1.05 * (theirs - truth).norm()


def test_only_the_input_is_kept_for_the_way_back(small_models: dict[str, Path]) -> None:
    norm = a_norm(small_models["llama"])
    x = torch.randn(3, 16, generator=seeded()).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        norm(x)
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]


@pytest.mark.parametrize(
    ("place", "settings", "gated"),
    [
        ("llama.LlamaMLP", {"hidden_act": "silu"}, True),
        ("qwen2.Qwen2MLP", {"hidden_act": "silu"}, True),
        ("gemma2.Gemma2MLP", {"hidden_activation": "gelu_pytorch_tanh"}, True),
        ("llama.LlamaMLP", {"hidden_act": "relu"}, False),
        ("gemma3n.Gemma3nTextMLP", {"activation_sparsity_pattern": [0.0]}, True),
        # The same layers, of which another formula is made.
        ("gemma3n.Gemma3nTextMLP", {"activation_sparsity_pattern": [0.9]}, False),
    ],
)
def test_gated_activations_are_told_from_others(
    monkeypatch: pytest.MonkeyPatch, place: str, settings: dict[str, Any], gated: bool
) -> None:
    family, _, name = place.partition(".")
    code = import_module(f"transformers.models.{family}.modeling_{family}")
    config = SimpleNamespace(
        hidden_size=16, intermediate_size=24, mlp_bias=False,
        hidden_activation="gelu_pytorch_tanh",
    )  # fmt: skip
    vars(config).update(settings)
    if family == "gemma3n":
        config.intermediate_size = [24]
        mlp = getattr(code, name)(config, layer_idx=0)
    else:
        mlp = getattr(code, name)(config)
    lighten(mlp.requires_grad_(False))
    assert ("forward" in vars(mlp)) == gated
    monkeypatch.setattr(fused, "compiles", lambda x: True)
    called: list[str] = []
    for function in (fused._silu, fused._gelu):
        monkeypatch.setattr(function, "_compiled", counted(function.plain, called))
    x = torch.randn(2, 3, 16, generator=seeded()).requires_grad_()
    g = torch.randn(2, 3, 16, generator=seeded())
    y = mlp(x)
    assert bool(called) == gated
    expected = plain(mlp, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        torch.autograd.grad(y, x, g), torch.autograd.grad(expected, x, g), rtol=1e-5, atol=1e-6
    )


def counted(function: Callable[..., Tensor], calls: list[str]) -> Callable[..., Tensor]:
    def call(*args: Tensor) -> Tensor:
        calls.append(function.__name__)
        return function(*args)

    return call


def test_what_stands_in_for_a_forward_stays() -> None:
    norm = nn.RMSNorm(4, eps=1e-5).requires_grad_(False)
    norm.forward = own = lambda x: x + 1
    lighten(norm)
    assert norm.forward is own
