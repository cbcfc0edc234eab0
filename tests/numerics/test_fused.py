"""Fused norms, maps and pooling, against the modules with maps after them, compiled and not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lineas_core as lc
from lineas_core.activations import pool
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.numerics import fused
from lineas_core.numerics.norms import read_norm
from lineas_core.steering import AtSite
from tests.helpers.pipelines import small_sd

SAMPLES, TOKENS, WIDTH = 3, 5, 8
NORMS = {
    "rms": nn.RMSNorm(WIDTH, eps=1e-5),
    "layer": nn.LayerNorm(WIDTH),
    "bare layer": nn.LayerNorm(WIDTH, elementwise_affine=False),
    "group": nn.GroupNorm(2, WIDTH),
}
CONFIG = lc.TrainConfig(steps=3, rate=0.05, batch_size=8, holdout=0)


@pytest.fixture
def uneven(prompts: lc.PromptSet) -> lc.PromptSet:
    """More prompts on one side, each side of several lengths."""
    return replace(prompts, target=prompts.target[:5])


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions are compiled for a CPU too."""
    monkeypatch.setattr(fused, "compiles", lambda x: True)


@pytest.fixture
def fusing(monkeypatch: pytest.MonkeyPatch, compiling: None) -> None:
    """Fused functions take the place of the plain way on a CPU too, but are not compiled."""
    monkeypatch.setattr(fused.Compiled, "__call__", lambda self, *args: self.plain(*args))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the module under test logged; torch's compiler has logs of its own."""
    return [record.message for record in caplog.records if record.name == fused.__name__]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs_of(kind: str, channels_last: bool = False) -> dict[str, Any]:
    norm = NORMS[kind].requires_grad_(False)
    for parameter in norm.parameters():
        parameter.data.normal_(generator=seeded())
    shape = (SAMPLES, WIDTH, 4, 4) if kind == "group" else (1, SAMPLES * TOKENS, WIDTH)
    x = torch.randn(shape, generator=seeded(1))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    gain, shift = 0.3 * torch.randn(2, WIDTH, generator=seeded(2))
    leaves = [x.requires_grad_(), gain.requires_grad_(), shift.requires_grad_()]
    return {"norm": norm, "leaves": leaves}


def fused_way(norm: nn.Module, leaves: list[Tensor], pooling: str) -> list[Tensor]:
    found = read_norm(norm)
    assert found is not None
    x, *affine = leaves
    z, pooled = fused.pooled_norm(x, norm, found, BatchAffine(*affine), SAMPLES, pooling)
    return with_gradients(z, pooled, leaves)


def plain_way(norm: nn.Module, leaves: list[Tensor], pooling: Any) -> list[Tensor]:
    x, *affine = leaves
    z = AtSite("norm", BatchAffine(*affine))(norm(x))
    rows = z if z.ndim == 4 else z.view(SAMPLES, TOKENS, WIDTH)
    return with_gradients(z, pool(rows, pooling, None), leaves)


def with_gradients(z: Tensor, pooled: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    towards = [torch.randn(t.shape, generator=seeded(3)) for t in (z, pooled)]
    return [z, pooled, *torch.autograd.grad([z, pooled], leaves, towards)]


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_the_formulas_are_the_modules_with_maps_and_pooling(kind: str, pooling: str) -> None:
    if (kind, pooling) == ("group", "last"):
        pytest.skip("images have no last token")
    given = inputs_of(kind)
    for own, plain in zip(
        fused_way(**given, pooling=pooling), plain_way(**given, pooling=pooling), strict=True
    ):
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
def test_compiled_they_are_the_same() -> None:
    """In a process of its own, as the types that tests check are not to be compiled too."""
    code = f"from {__name__} import compare_compiled; compare_compiled()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "uncompiled" not in done.stderr


def compare_compiled() -> None:
    fused.compiles = lambda x: True
    for kind in NORMS:
        for channels_last in {False, kind == "group"}:
            given = inputs_of(kind, channels_last)
            for own, plain in zip(
                fused_way(**given, pooling="mean"), plain_way(**given, pooling="mean"), strict=True
            ):
                torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-5)
                assert own.stride() == plain.stride()
    gate, up = torch.randn(2, 7, 5, generator=seeded())
    torch.testing.assert_close(fused.gated_silu(gate, up), functional.silu(gate) * up)


def test_what_cannot_be_compiled_runs_as_it_is(
    compiling: None, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x * x.sum()

    function = fused.Compiled(breaks)
    x = torch.arange(3.0)
    for _ in range(2):
        assert torch.equal(function(x), 3 * x)
    [warning] = warnings_of(caplog)
    assert "breaks runs uncompiled" in warning
    with pytest.raises(RuntimeError, match="size"):
        fused.Compiled(lambda a, b: a @ b)(x, torch.ones(2))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen2", "gpt2", "image"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("even", [False, True])
def test_training_with_fused_sites_is_training(
    request: pytest.FixtureRequest, tmp_path: Path, small_models: dict[str, Path],
    uneven: lc.PromptSet, kind: str, pooling: Any, even: bool,
) -> None:  # fmt: skip
    if kind == "image":
        if pooling == "last":
            pytest.skip("images have no last token")
        small_sd().save_pretrained(tmp_path)
    model = lc.load_model(str(tmp_path if kind == "image" else small_models[kind]), device="cpu")
    prompts = uneven
    if even:
        words = [["a b c"] * 8, ["c d e"] * 8]
        words = [[f"{p} {'abcdefgh'[i]}" for i, p in enumerate(side)] for side in words]
        prompts = lc.PromptSet(name="even", source=words[0], target=words[1])
    sites = "norm" if kind == "image" else ""
    config = replace(CONFIG, pooling=pooling, sites=sites)

    def trained() -> Tensor:
        trainer = lc.Trainer(model, prompts, config)
        list(trainer.run())
        return torch.cat([torch.cat([*affine]) for affine in trainer.map.sites.values()])

    plain = trained()
    request.getfixturevalue("fusing")
    called: list[int] = []
    for function in (fused._pooled, fused._steered):
        was = function.plain

        def counted(*args: Any, was: Any = was) -> Any:
            called.append(len(args))
            return was(*args)

        request.getfixturevalue("monkeypatch").setattr(function, "plain", counted)
    own = trained()
    assert float((own - plain).norm() / plain.norm()) < 1e-4
    assert len(called) >= config.steps
