"""The gradient of frozen norms, against autograd's through the original modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lineas_core as lc
from lineas_core.models.language.rms_norm import OFFSETS

FAMILIES = ("llama", "mistral", "qwen2", "gemma2")


def a_norm(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A norm of a loaded model, with random weights."""
    module = lc.load_model(str(folder), device="cpu").module.to(dtype)
    norm = next(m for m in module.modules() if type(m).__name__ in OFFSETS)
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
