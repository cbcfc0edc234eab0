from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import minimize

from lineas_core import ConfigError
from lineas_core.numerics.transport import affine_transport, delta


def samples(n: int, m: int, d: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return u, 2 * torch.randn(m, d, generator=generator, dtype=torch.float64) + 1


@pytest.mark.parametrize(("n", "m"), [(1, 1), (6, 6), (32, 32), (4, 6), (7, 3), (1, 5), (32, 24)])
def test_delta_is_the_squared_wasserstein_distance_of_pot(n: int, m: int) -> None:
    u, v = samples(n, m)
    wanted = ot.wasserstein_1d(u.numpy(), v.numpy(), p=2)
    np.testing.assert_allclose(delta(u, v).numpy(), wanted, rtol=1e-12)
    np.testing.assert_allclose(delta(u, v.sort(0).values, v_sorted=True), wanted, rtol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (4, 6)])
def test_gradient_of_delta_is_that_of_finite_differences(n: int, m: int) -> None:
    u, v = samples(n, m)
    assert torch.autograd.gradcheck(delta, (u.requires_grad_(), v.requires_grad_()))


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0)])
def test_delta_of_nothing_is_refused(n: int, m: int) -> None:
    with pytest.raises(ConfigError, match="Give one of each"):
        delta(*samples(n, m))


@pytest.mark.parametrize(("n", "m"), [(16, 16), (5, 8)])
def test_affine_transport_is_the_best_of_all_affine_maps(n: int, m: int) -> None:
    u, v = samples(n, m, d=3)
    fitted = affine_transport(u, v)
    for j in range(3):

        def distance(line: np.ndarray, j: int = j) -> float:
            moved = line[0] * u[:, j].numpy() + line[1]
            return float(ot.wasserstein_1d(moved, v[:, j].numpy(), p=2))

        ours = distance(np.array([float(fitted.scale[j]), float(fitted.shift[j])]))
        found = minimize(distance, x0=[1.0, 0.0], method="BFGS")
        assert ours == pytest.approx(found.fun, rel=1e-6)


def test_affine_transport_recovers_an_affine_map_whatever_the_order() -> None:
    u, _ = samples(20, 1)
    scale, shift = torch.tensor([0.5, 1.0, 2.0, 3.0]), torch.tensor([-1.0, 0.0, 1.0, 2.0])
    v = (u * scale + shift)[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    fitted = affine_transport(u, v)
    torch.testing.assert_close(fitted.scale, scale)
    torch.testing.assert_close(fitted.shift, shift)


def test_a_constant_column_is_shifted_only() -> None:
    fitted = affine_transport(torch.full((4, 1), 3.0), torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    assert fitted.scale.item() == 1
    assert fitted.shift.item() == pytest.approx(-0.5)
