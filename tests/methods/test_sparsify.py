from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

import lineas_core as lc
from lineas_core.diagnostics.health import check_health
from lineas_core.methods.lineas import fit as fit_lineas
from lineas_core.methods.variants.sparsify import (
    PathConfig,
    SparseFitter,
    SparsePath,
    SparsePoint,
    sparsest,
)
from lineas_core.numerics.proximal_gradient import (
    Iterate,
    SparsePenalty,
    largest_gamma,
    proximal_gradient_descent,
)

CONFIG = lc.TrainConfig(steps=40, rate=0.3, group=0.0, batch_size=8, holdout=0.25)
COUPLES = [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.3, 2.0)]


def least_squares(seed: int, widths: Sequence[int]):
    """A smooth convex loss of one vector per width, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    width = sum(widths)
    a = torch.randn(3 * width, width, generator=generator, dtype=torch.float64)
    y = a @ (3 * torch.randn(width, generator=generator, dtype=torch.float64)) + 1

    def loss(parts: Sequence[Tensor]) -> Tensor:
        return (a @ torch.cat(list(parts)) - y).square().mean()

    return loss, [torch.zeros(width, dtype=torch.float64) for width in widths]


@pytest.mark.parametrize(("l1", "group"), COUPLES)
def test_gamma_max_is_where_zero_stops_being_the_solution(l1: float, group: float) -> None:
    loss, zero = least_squares(0, (5, 7))
    leaves = [z.requires_grad_() for z in zero]
    gamma = largest_gamma(torch.autograd.grad(loss(leaves), leaves), l1, group)
    for factor, moves in ((1.001, False), (0.99, True)):
        penalty = SparsePenalty(gamma * factor, l1, group)
        found = proximal_gradient_descent(loss, Iterate.at(loss, zero), penalty, steps=100)
        assert any(bool(part.any()) for part in found.values) == moves


@pytest.mark.parametrize(("l1", "group"), [(1.0, 0.0), (0.0, 1.0)])
def test_gamma_max_of_one_penalty_alone_is_a_norm(l1: float, group: float) -> None:
    parts = [torch.randn(5), torch.randn(9)]
    wanted = max(float(p.abs().max()) if l1 else float(p.norm()) / math.sqrt(len(p)) for p in parts)
    assert largest_gamma(parts, l1, group) == pytest.approx(wanted)


@pytest.mark.parametrize(("l1", "group"), COUPLES)
@pytest.mark.parametrize("share", [0.6, 0.2, 0.02])
def test_descent_finds_what_a_general_solver_finds(l1: float, group: float, share: float) -> None:
    widths = (4, 6)
    loss, zero = least_squares(1, widths)
    leaves = [z.requires_grad_() for z in zero]
    gamma = share * largest_gamma(torch.autograd.grad(loss(leaves), leaves), l1, group)
    penalty = SparsePenalty(gamma, l1, group)
    found = proximal_gradient_descent(loss, Iterate.at(loss, zero), penalty, steps=300)

    def objective(both: Tensor, rounding: float) -> Tensor:
        """The objective in the positive and negative parts of x, with the norm smoothed at 0."""
        up, down = both.chunk(2)
        parts = (up - down).split(widths)
        norms = sum(math.sqrt(len(p)) * (p.square().sum() + rounding**2).sqrt() for p in parts)
        return loss(parts) + gamma * (l1 * both.sum() + group * norms)

    def with_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.from_numpy(x).requires_grad_()
        value = objective(both, 1e-5)
        return value.item(), torch.autograd.grad(value, both)[0].numpy()

    size = 2 * sum(widths)
    best = minimize(
        with_gradient, np.ones(size), jac=True, bounds=[(0, None)] * size, method="L-BFGS-B",
        options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 5000},
    )  # fmt: skip
    x = torch.cat(found.values)
    ours = float(objective(torch.cat([x.clamp(min=0), (-x).clamp(min=0)]), 0.0))
    assert ours == pytest.approx(best.fun, rel=1e-5)
    # The solver does not reach exact zeros, so compare the entries that it finds to be large.
    theirs = torch.from_numpy(best.x[: size // 2] - best.x[size // 2 :])
    torch.testing.assert_close(x, theirs, rtol=0.02, atol=0.02)


def test_every_step_lowers_the_objective_from_any_first_step_size() -> None:
    loss, zero = least_squares(2, (6,))
    penalty = SparsePenalty(0.1, 1.0, 1.0)
    for step_size in (1e-3, 1.0, 1e3):
        current, reached = replace(Iterate.at(loss, zero), step_size=step_size), []
        for _ in range(15):
            current = proximal_gradient_descent(loss, current, penalty, steps=1)
            reached.append(float(loss(current.values)) + sum(map(penalty.value, current.values)))
            assert current.loss == pytest.approx(float(loss(current.values)))
        assert reached == sorted(reached, reverse=True)
        assert reached[-1] < 0.5 * float(loss(zero))


def test_a_path_goes_from_few_coordinates_to_many(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    fitter = SparseFitter(tiny, prompts, CONFIG)
    points = list(fitter.path(PathConfig(points=6, ratio=0.5, steps=6)))
    gamma = fitter.gamma_max()
    assert [p.gamma for p in points] == pytest.approx([gamma * 0.5**k for k in range(1, 7)])
    supports = [p.support for p in points]
    assert 0 < supports[0] < 0.6
    assert supports == sorted(supports)
    assert supports[-1] > 1.5 * supports[0]
    assert points[-1].effect > points[0].effect
    assert points[0].map.info.config["gamma"] == points[0].gamma


@pytest.mark.parametrize(("l1", "group"), COUPLES)
def test_the_first_point_is_next_to_the_identity(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, l1: float, group: float
) -> None:
    fitter = SparseFitter(tiny, prompts, replace(CONFIG, l1=l1, group=group))
    gamma = fitter.gamma_max()

    def moved(share: float) -> bool:
        penalty = SparsePenalty(share * gamma, l1, group)
        start = Iterate.at(fitter.loss, fitter.identity())
        found = proximal_gradient_descent(fitter.loss, start, penalty, steps=3)
        return any(bool(part.any()) for part in found.values)

    assert not moved(1.001)
    assert moved(0.98)


def test_warm_started_points_are_solutions(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    fitter = SparseFitter(tiny, prompts, CONFIG)
    path = PathConfig(points=2, ratio=0.3, steps=15)
    for point in fitter.path(path):
        penalty = SparsePenalty(point.gamma, CONFIG.l1, CONFIG.group)

        def objective(parts: Sequence[Tensor], penalty: SparsePenalty = penalty) -> float:
            return float(fitter.loss(parts)) + sum(map(penalty.value, parts))

        # Plain proximal gradient from the identity, in many short steps.
        cold = fitter.identity()
        for _ in range(40):
            leaves = [part.requires_grad_() for part in cold]
            gradients = torch.autograd.grad(fitter.loss(leaves), leaves)
            cold = [
                penalty.shrink((part - 0.3 * gradient).detach(), 0.3)
                for part, gradient in zip(leaves, gradients, strict=True)
            ]
        warm = [v for a in point.map.sites.values() for v in (a.scale - 1, a.shift)]
        assert objective(warm) <= objective(cold) * 1.005


def parts_of(smap: lc.SteeringMap) -> list[Tensor]:
    return [part for affine in smap.sites.values() for part in (affine.scale - 1, affine.shift)]


def test_contributions_of_neurons_add_up_to_the_fall_of_the_loss(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    # Steps so short that the loss falls along each as its gradient says.
    config = replace(CONFIG, rate=CONFIG.rate / 20)
    fitter = SparseFitter(tiny, prompts, config)
    dense = fitter.learn()
    fall = float(fitter.loss(fitter.identity()) - fitter.loss(parts_of(dense.point.map)))
    assert fall > 0
    assert sum(float(part.sum()) for part in dense.contributions.values()) == pytest.approx(
        fall, rel=0.03
    )
    # What is left goes on from where it was, and so do its contributions.
    left = fitter.prune(dense, 0.3)
    kept = {site: part.isfinite() for site, part in left.contributions.items()}
    start = [
        torch.where(kept[site], part, 0.0)
        for site, affine in dense.point.map.sites.items()
        for part in (affine.scale - 1, affine.shift)
    ]
    fall = float(fitter.loss(start) - fitter.loss(parts_of(left.point.map)))
    assert fall > 0
    more = sum(float((left.contributions[s] - dense.contributions[s])[kept[s]].sum()) for s in kept)
    assert more == pytest.approx(fall, rel=0.03)


def test_what_is_pruned_is_the_dense_map(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    found = SparseFitter(tiny, prompts, CONFIG).learn().point
    wanted = fit_lineas(tiny, prompts, CONFIG)
    assert (found.gamma, found.support) == (0, 1)
    for part, other in zip(parts_of(found.map), parts_of(wanted), strict=True):
        torch.testing.assert_close(part, other)


def test_each_round_trains_the_top_neurons_of_the_one_before(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    fitter = SparseFitter(tiny, prompts, CONFIG)
    before = fitter.learn()
    for support in (0.5, 0.1, 0.001):
        after = fitter.prune(before, support)
        every = sorted(torch.cat([*before.contributions.values()]).tolist(), reverse=True)
        count = max(round(support * len(every)), 1)
        assert after.point.gamma == every[count - 1]
        assert after.point.support == pytest.approx(count / len(every))
        assert after.point.map.info.config["gamma"] == after.point.gamma
        for site, found in after.point.map.sites.items():
            top = before.contributions[site] >= after.point.gamma
            assert torch.equal(found.changed, top)
            assert torch.equal(after.contributions[site].isfinite(), top)
        assert fitter.loss(parts_of(after.point.map)) < fitter.loss(fitter.identity())
        before = after


def test_the_chosen_map_is_the_sparsest_that_keeps_enough(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    points: list[SparsePoint] = []
    found = sparsest(tiny, prompts, CONFIG, kept=0.8, on_point=points.append)
    chosen = found.chosen
    assert chosen.effect >= 0.8 * found.dense.effect > 0
    assert chosen.support < found.dense.support == 1
    assert tuple(points) == found.points
    assert all(point.effect >= 0.8 * found.dense.effect for point in found.points[:-1])
    again = sparsest(tiny, prompts, CONFIG, kept=0.8)
    assert again.chosen.support == chosen.support
    # The share closed, computed independently of the path's code.
    _, held_out = prompts.split(CONFIG.holdout, CONFIG.seed)
    report = check_health(tiny, chosen.map, held_out, held_out)
    assert chosen.effect == pytest.approx(1 - report.training.ratio, rel=1e-4)


def test_what_keeps_too_little_ends_in_the_dense_map(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    found = sparsest(tiny, prompts, CONFIG, supports=(0.001, 0.002, 0.001))
    assert len(found.points) == 1
    # At least one neuron remains.
    assert sum(int(a.changed.sum()) for a in found.points[0].map.sites.values()) == 1
    assert found.chosen is found.dense


def test_a_share_given_twice_is_tried_once(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    found = sparsest(tiny, prompts, CONFIG, kept=1e-6, supports=(0.2, 0.4, 0.2))
    assert [point.support for point in found.points] == pytest.approx([0.4, 0.2], abs=0.01)


def test_ties_and_better_points_are_chosen_by_support() -> None:
    def point(effect: float, changed: int) -> SparsePoint:
        shift = torch.zeros(10)
        shift[:changed] = 1
        return SparsePoint(0.1, lc.SteeringMap({"n": lc.Affine(torch.ones(10), shift)}), effect)

    points = (point(0.2, 1), point(0.6, 5), point(0.58, 3), point(0.59, 8))
    assert SparsePath(points, point(0.6, 10), 0.95).chosen is points[2]


def test_batches_do_not_change_the_loss_or_its_slope(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    found = []
    for size in (8, 4, 2):
        fitter = SparseFitter(tiny, prompts, replace(CONFIG, batch_size=size))
        leaves = [part.add(0.1).requires_grad_() for part in fitter.identity()]
        loss = fitter.loss(leaves)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_done_is_said(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    with pytest.raises(lc.ConfigError, match="holdout is 0"):
        sparsest(tiny, prompts, replace(CONFIG, holdout=0))
    with pytest.raises(lc.ConfigError, match=r"kept is 1\.5"):
        sparsest(tiny, prompts, CONFIG, kept=1.5)
    for supports in ((), (0.1, 1.0), (0.0,)):
        with pytest.raises(lc.ConfigError, match="supports is"):
            sparsest(tiny, prompts, CONFIG, supports=supports)
    with pytest.raises(lc.ConfigError, match=r"gamma is 0\.1"):
        sparsest(tiny, prompts, replace(CONFIG, gamma=0.1))
    with pytest.raises(lc.ConfigError, match="l1 and group are 0"):
        sparsest(tiny, prompts, replace(CONFIG, l1=0.0, group=0.0))
    with pytest.raises(lc.TrainingError, match="no effect to keep"):
        sparsest(tiny, prompts, replace(CONFIG, rate=1e-30))
    for name, value in {"points": 0, "ratio": 1.0, "steps": 0}.items():
        with pytest.raises(lc.ConfigError, match=f"{name} is {value!r}"):
            PathConfig(**{name: value})
