from __future__ import annotations

import math

import pytest
import torch

from lineas_core import ConfigError
from lineas_core.numerics.proximal import group_shrink, soft_threshold, sparse_group_shrink


def penalty(x: torch.Tensor, l1: float, group: float) -> torch.Tensor:
    return l1 * x.abs().sum(-1) + group * math.sqrt(x.shape[-1]) * x.norm(dim=-1)


@pytest.mark.parametrize(
    ("threshold", "l1", "group"), [(0.3, 1.0, 0.0), (0.3, 0.0, 1.0), (0.2, 1.0, 1.0), (2.0, 1, 1)]
)
def test_no_nearby_or_far_point_has_a_smaller_objective(
    threshold: float, l1: float, group: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        z = torch.randn(3, generator=generator, dtype=torch.float64)
        x = sparse_group_shrink(z, threshold, l1, group)
        near = x + 10 ** -torch.randint(1, 5, (200, 1), generator=generator) * torch.randn(
            200, 3, generator=generator, dtype=torch.float64
        )
        # Include sparse neighbours, since a coordinate of the minimum is often zero.
        sparse = near * (torch.rand(200, 3, generator=generator) > 0.4)
        others = torch.cat([near, sparse, z[None], torch.zeros(1, 3, dtype=torch.float64)])

        def objective(y: torch.Tensor, z: torch.Tensor = z) -> torch.Tensor:
            return (y - z).square().sum(-1) / 2 + threshold * penalty(y, l1, group)

        assert objective(x) <= objective(others).min() + 1e-12


def test_the_grid_minimum_of_two_coordinates_is_found() -> None:
    axis = torch.linspace(-2, 2, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        z = 4 * torch.rand(2, generator=generator, dtype=torch.float64) - 2
        objective = (grid - z).square().sum(-1) / 2 + 0.4 * penalty(grid, 1.0, 0.5)
        found = sparse_group_shrink(z, 0.4, 1.0, 0.5)
        torch.testing.assert_close(found, grid[objective.argmin()], atol=0.01, rtol=0)


def test_entries_and_groups_become_exactly_zero() -> None:
    z = torch.tensor([0.2, -0.1, 3.0])
    assert soft_threshold(z, 0.5).tolist()[:2] == [0, 0]
    assert torch.equal(group_shrink(torch.tensor([0.3, 0.4]), 0.51), torch.zeros(2))
    assert torch.equal(group_shrink(torch.zeros(2), 0.0), torch.zeros(2))
    assert torch.equal(sparse_group_shrink(z, 0.0, 1.0, 1.0), z)


@pytest.mark.parametrize("shrink", [soft_threshold, group_shrink])
@pytest.mark.parametrize("threshold", [-1.0, float("nan")])
def test_negative_thresholds_are_refused(shrink: object, threshold: float) -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        shrink(torch.ones(2), threshold)  # type: ignore[operator]
