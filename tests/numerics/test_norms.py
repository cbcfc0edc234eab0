"""What a norm computes, against the modules of torch, transformers and diffusers."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from lineas_core.numerics.norms import read_norm

WIDTH = 12


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(place: str, *args: object, **settings: object) -> nn.Module:
    """A norm with random weights, of the class at `package.module:Class`."""
    package, _, name = place.partition(":")
    norm = getattr(import_module(package), name)(*args, **settings)
    for parameter in norm.parameters():
        parameter.data.normal_(generator=seeded())
    return norm.requires_grad_(False)


HF = "transformers.models."
CASES = {
    ("torch.nn:LayerNorm", "layer", 0),
    ("torch.nn:RMSNorm", "rms", 0),
    (f"{HF}llama.modeling_llama:LlamaRMSNorm", "rms", 0),
    (f"{HF}qwen3.modeling_qwen3:Qwen3RMSNorm", "rms", 0),
    (f"{HF}gemma.modeling_gemma:GemmaRMSNorm", "rms", 1),
    (f"{HF}gemma2.modeling_gemma2:Gemma2RMSNorm", "rms", 1),
    (f"{HF}gemma3.modeling_gemma3:Gemma3RMSNorm", "rms", 1),
    (f"{HF}t5.modeling_t5:T5LayerNorm", "rms", 0),
    (f"{HF}cohere.modeling_cohere:CohereLayerNorm", "layer", 0),
}  # fmt: skip


@pytest.mark.parametrize(("place", "kind", "offset"), sorted(CASES))
def test_the_formula_gives_what_the_module_gives(place: str, kind: str, offset: int) -> None:
    settings = {"eps": 1e-3} if "T5" not in place and "Cohere" not in place else {}
    norm = made(place, WIDTH, **settings)
    found = read_norm(norm)
    assert found is not None
    assert (found.kind, found.offset, found.width) == (kind, offset, WIDTH)
    # Small enough that eps counts.
    x = 0.02 * torch.randn(2, 5, WIDTH, generator=seeded(1)) + 0.01
    for z in (x, 50 * x):
        own = found(z, found.weight_of(norm), found.bias_of(norm))
        torch.testing.assert_close(own, norm(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_a_group_norm_is_read(affine: bool) -> None:
    norm = made("torch.nn:GroupNorm", 3, WIDTH, affine=affine)
    found = read_norm(norm)
    assert found is not None
    assert found.groups == 3
    x = torch.randn(2, WIDTH, 4, 4, generator=seeded(1))
    assert torch.equal(found(x, found.weight_of(norm), found.bias_of(norm)), norm(x))


class Shifted(nn.Module):
    """Looks like a norm, and is none of the kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(WIDTH)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight / (x.abs().mean(-1, keepdim=True) + self.eps)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.LayerNorm((3, WIDTH)), Shifted(),
        nn.Sequential(nn.LayerNorm(WIDTH)), nn.RMSNorm(WIDTH, eps=1e-5, elementwise_affine=False),
    ],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_others_are_not(module: nn.Module) -> None:
    assert read_norm(module) is None


def test_the_setting_of_a_class_counts() -> None:
    """One class may hold two formulas: what one instance is does not decide for another."""

    class Either(nn.Module):
        def __init__(self, centred: bool) -> None:
            super().__init__()
            self.weight, self.eps, self.centred = nn.Parameter(torch.ones(WIDTH)), 1e-5, centred

        def forward(self, x: Tensor) -> Tensor:
            x = x - x.mean(-1, keepdim=True) if self.centred else x
            return self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    kinds = [norm.kind for norm in (read_norm(Either(True)), read_norm(Either(False))) if norm]
    assert kinds == ["layer", "rms"]
