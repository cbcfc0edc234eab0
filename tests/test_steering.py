from __future__ import annotations

import contextvars
import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import lineas_core as lc
from lineas_core.hooks import site_hooks
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.steering import AtSite
from tests.helpers.models import random_map

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Block(nn.Module):
    """A site of each kind: a norm, a linear layer, a convolution, and one that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.linear = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return self.linear(self.norm(x)), "aside"


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.conv = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.block(x)
        return self.conv(y.reshape(len(y), 2, 4, -1))


class Texter(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "text"


WIDTHS = {"block.norm": 6, "block.linear": 8, "block": 8, "conv": 3}


@pytest.fixture
def toy() -> Toy:
    return Toy().requires_grad_(False)


def by_hand(toy: Toy, smap: lc.SteeringMap, s: Tensor, x: Tensor) -> Tensor:
    """The forward pass of `Toy` written out, with T_s after every site."""

    def t(site: str, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        w, b = (v.view(shape) for v in smap.sites[site])
        return z + s.view(-1, *[1] * (z.ndim - 1)) * ((w - 1) * z + b)

    z = t("block.norm", toy.block.norm(x), (-1,))
    z = t("block.linear", toy.block.linear(z), (-1,))
    z = t("block", z, (-1,))
    z = toy.conv(z.reshape(len(z), 2, 4, -1))
    return t("conv", z, (-1, 1, 1))


def changed_in(module: nn.Module) -> int:
    """How many of its modules have hooks or a replaced `forward`."""
    return sum("forward" in vars(m) or bool(m._forward_hooks) for m in module.modules())


@pytest.mark.parametrize("s", [1.0, 0.3, -0.5, 2.0])
def test_one_strength_equals_a_hand_written_forward(toy: Toy, s: float) -> None:
    smap, x = random_map(WIDTHS, 0), torch.randn(4, 3, 6)
    with lc.steer(toy, [(smap, s)]):
        found = toy(x)
    torch.testing.assert_close(found, by_hand(toy, smap, torch.full((4,), s), x))
    assert changed_in(toy) == 0


def test_a_strength_per_sample_equals_a_hand_written_forward(toy: Toy) -> None:
    smap, x = random_map(WIDTHS, 0), torch.randn(4, 3, 6)
    strengths = torch.tensor([0.0, 0.25, 1.0, -1.0])
    with lc.steer(toy, [(smap, strengths)]):
        found = toy(x)
    torch.testing.assert_close(found, by_hand(toy, smap, strengths, x))
    assert torch.equal(found[0], toy(x)[0])


def test_composed_maps_equal_one_after_the_other(toy: Toy) -> None:
    a, b = random_map({"block.norm": 6}, 0), random_map({"block.norm": 6}, 1)
    x = torch.randn(4, 3, 6)
    with lc.steer(toy, [(a, 0.5), (b, torch.tensor([0.0, 0.5, 1.0, 2.0]))]):
        together = toy(x)
    with lc.steer(toy, [(a, 0.5)]), lc.steer(toy, [(b, torch.tensor([0.0, 0.5, 1.0, 2.0]))]):
        nested = toy(x)
    torch.testing.assert_close(together, nested)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_and_strength_zero_change_no_bit(toy: Toy, dtype: torch.dtype) -> None:
    toy, smap, x = toy.to(dtype), random_map(WIDTHS, 0), torch.randn(4, 3, 6, dtype=dtype)
    plain = toy(x)
    for maps in ([], [(smap, 0.0)], [(smap, torch.zeros(4))], [(smap, 0), (smap, 0.0)]):
        with lc.steer(toy, maps):
            assert torch.equal(toy(x), plain)


def test_maps_are_applied_in_float32_whatever_the_dtype() -> None:
    norm = nn.LayerNorm(64).bfloat16().requires_grad_(False)
    # 1.003 is not a bfloat16 (the nearest are 1 and 1.0078).
    smap = lc.SteeringMap({"0": lc.Affine(torch.full((64,), 1.003), torch.zeros(64))})
    model = nn.Sequential(norm)
    x = torch.randn(200, 64).bfloat16()
    z = model(x)
    with lc.steer(model, [(smap, 1.0)]):
        steered = model(x)
    assert steered.dtype == torch.bfloat16
    exact = (z.double() * 1.003).bfloat16()
    assert (steered == exact).float().mean() > 0.99
    assert (steered != z).any()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5, 8), (3, 8, 4, 4), (1, 8)])
def test_half_precision_is_rounded_once(
    device: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(shape, generator=generator).to(device, dtype)
    if len(shape) == 4:
        z = z.contiguous(memory_format=torch.channels_last)
    gain, shift = (torch.randn(shape[0], 8, generator=generator).to(device) for _ in range(2))
    wide = [1 if i not in (0, 1 if len(shape) == 4 else len(shape) - 1) else n
            for i, n in enumerate(shape)]  # fmt: skip
    steered = AtSite("norm", BatchAffine(gain, shift))(z)
    exact = z.double() * (1 + gain.double()).view(wide) + shift.double().view(wide)
    assert steered.dtype == dtype
    assert steered.stride() == z.stride()
    spacing = torch.finfo(dtype).eps * exact.abs().clamp(min=1e-3)
    assert bool(((steered.double() - exact).abs() <= 0.51 * spacing).all())


RMS = (lambda: nn.RMSNorm(8, eps=1e-6), (2, 5, 8))
NORMS = {
    "layer": (lambda: nn.LayerNorm(8), (2, 5, 8)),
    "bare layer": (lambda: nn.LayerNorm(8, elementwise_affine=False), (2, 5, 8)),
    "unbiased layer": (lambda: nn.LayerNorm(8, bias=False), (2, 8)),
    "layer of heads": (lambda: nn.LayerNorm(8), (2, 5, 3, 8)),
    "group": (lambda: nn.GroupNorm(2, 8), (2, 8, 3, 3)),
    "bare group": (lambda: nn.GroupNorm(2, 8, affine=False), (2, 8, 3, 3)),
}


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are part of norms on a CPU too."""
    monkeypatch.setattr("lineas_core.steering.folding_pays", lambda device: True)


@pytest.mark.parametrize("kind", [*NORMS, "rms"])
def test_a_map_in_a_norm_is_the_map_after_it(folding: None, kind: str) -> None:
    build, shape = NORMS.get(kind, RMS)
    norm = build()
    for parameter in norm.parameters():
        parameter.data.normal_()
    model, smap = nn.Sequential(norm).requires_grad_(False), random_map({"0": 8}, 0)
    x = torch.randn(shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    w, b = (v.view(8, 1, 1) if "group" in kind else v for v in smap.sites["0"])
    z = norm(x)
    kernels: list[str] = []
    with lc.steer(model, [(smap, 0.7)]), Kernels(kernels):
        steered = model(x)
    torch.testing.assert_close(steered, z + 0.7 * ((w - 1) * z + b))
    assert "addcmul" not in kernels
    assert len([name for name in kernels if "norm" in name]) == (kind != "rms")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(x), z)


class Kernels(TorchDispatchMode):
    """Notes the name of each kernel that runs."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_norm_that_learns_or_is_replaced_runs_itself(folding: None, toy: Toy) -> None:
    smap, x = random_map({"block.norm": 6}, 0), torch.randn(4, 3, 6)
    norm = toy.get_submodule("block.norm")
    norm.weight.requires_grad_()
    with lc.steer(toy, [(smap, 1.0)]):
        toy(x).sum().backward()
    assert norm.weight.grad is not None
    with lc.steer(toy, [(smap, 1.0)]), torch.no_grad():
        before = toy(x)
        norm.weight.mul_(2)
        after = toy(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, by_hand_at_norm(toy, smap, x))
    inner = norm.forward
    norm.forward = lambda z: inner(z) + 1
    with lc.steer(toy, [(smap, 1.0)]):
        found = toy(x)
    torch.testing.assert_close(found, by_hand_at_norm(toy, smap, x))


def by_hand_at_norm(toy: Toy, smap: lc.SteeringMap, x: Tensor) -> Tensor:
    """The forward pass of `Toy` with a map after its norm only."""
    w, b = smap.sites["block.norm"]
    y = toy.get_submodule("block.linear")(w * toy.get_submodule("block.norm")(x) + b)
    return toy.conv(y.reshape(4, 2, 4, -1))


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["rms", *NORMS])
def test_a_map_in_a_norm_of_a_gpu_is_the_map_after_it(kind: str, dtype: torch.dtype) -> None:
    build, shape = NORMS.get(kind, RMS)
    model, smap = nn.Sequential(build()).requires_grad_(False).to("cuda"), random_map({"0": 8}, 0)
    x = torch.randn(shape, device="cuda")
    w, b = (v.cuda().view(8, 1, 1) if "group" in kind else v.cuda() for v in smap.sites["0"])
    exact = model(x) * w + b
    with lc.steer(model.to(dtype), [(smap, 1.0)]):
        steered = model(x.to(dtype))
    assert steered.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(steered.float(), exact, rtol=tolerance, atol=4 * tolerance)


def test_an_error_inside_leaves_nothing(toy: Toy) -> None:
    def fail() -> None:
        with lc.steer(toy, [(random_map(WIDTHS, 0), 1.0)]):
            assert changed_in(toy) == 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert changed_in(toy) == 0


def test_an_error_while_entering_leaves_nothing(toy: Toy) -> None:
    smap = random_map({"block.norm": 6, "nowhere": 2}, 0)
    with (
        pytest.raises(lc.SiteError, match=r"no module 'nowhere' \(1 of 2"),
        lc.steer(toy, [(smap, 1.0)]),
    ):
        pass
    assert changed_in(toy) == 0


def test_misfits_are_named(toy: Toy) -> None:
    x = torch.randn(4, 3, 6)
    with (
        lc.steer(toy, [(random_map({"block.norm": 7}, 0), 1.0)]),
        pytest.raises(lc.SiteError, match="'block.norm' has width 6 on this model and 7"),
    ):
        toy(x)
    with (
        lc.steer(toy, [(random_map({"conv": 3}, 0), torch.ones(5))]),
        pytest.raises(lc.SiteError, match="'conv' sees a batch of 4, but 5 strengths"),
    ):
        toy(x)
    container = nn.Sequential(Texter())
    with (
        site_hooks(container, {"0": lambda z: z}),
        pytest.raises(lc.SiteError, match="'0' puts out str, not a tensor"),
    ):
        container(x)
    assert changed_in(container) == 0


def test_two_threads_steer_one_model_each_with_its_own_map(toy: Toy) -> None:
    x = torch.randn(4, 3, 6)
    maps = [random_map(WIDTHS, i) for i in range(4)]
    wanted = [by_hand(toy, m, torch.ones(4), x) for m in maps]
    plain, wrong = toy(x), []
    start = threading.Barrier(5)

    def work(i: int) -> None:
        start.wait()
        for _ in range(100):
            if i == 4:
                found, expected = toy(x), plain
            else:
                with lc.steer(toy, [(maps[i], 1.0)]):
                    found, expected = toy(x), wanted[i]
            if not torch.allclose(found, expected, atol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert changed_in(toy) == 0


def test_a_thread_started_inside_is_steered_in_a_copy_of_the_context(toy: Toy) -> None:
    smap, x, found = random_map(WIDTHS, 0), torch.randn(4, 3, 6), []
    with lc.steer(toy, [(smap, 1.0)]):
        for run in (contextvars.copy_context().run, contextvars.Context().run):
            thread = threading.Thread(target=run, args=(lambda: found.append(toy(x)),))
            thread.start()
            thread.join()
    torch.testing.assert_close(found[0], by_hand(toy, smap, torch.ones(4), x))
    assert torch.equal(found[1], toy(x))


def test_what_stood_in_for_a_forward_does_so_again_afterwards(toy: Toy) -> None:
    smap, x = random_map({"block.norm": 6}, 0), torch.randn(4, 3, 6)
    norm = toy.get_submodule("block.norm")
    inner = norm.forward
    norm.forward = outer = lambda z: inner(z) + 1
    plain = toy(x)
    first, second = lc.steer(toy, [(smap, 1.0)]), lc.steer(toy, [(smap, -1.0)])
    contexts = [contextvars.copy_context() for _ in range(2)]
    contexts[0].run(first.__enter__)
    contexts[1].run(second.__enter__)
    copied = copy.deepcopy(toy)
    assert not torch.allclose(contexts[0].run(toy, x), plain)
    contexts[0].run(first.__exit__, None, None, None)
    assert norm.forward is not outer
    assert torch.equal(toy(x), plain)
    assert not torch.allclose(contexts[1].run(toy, x), plain)
    contexts[1].run(second.__exit__, None, None, None)
    assert norm.forward is outer
    # A copy made while steering has its own weights and no map.
    with torch.no_grad():
        copied.get_submodule("block.linear").weight.zero_()
    assert torch.equal(toy(x), plain)
    assert not torch.equal(copied(x), plain)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("shape", [(2, 3, 6), (2, 6, 4, 4)])
def test_a_map_follows_its_site_to_another_device(
    batch: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    affine = BatchAffine(torch.zeros(*batch, 6), torch.ones(*batch, 6))
    at_site, z = AtSite("site", affine), torch.randn(shape)
    for device in ("cpu", "meta", "meta"):
        assert at_site(z.to(device)).device.type == device
