"""Noise of a seed, against SplitMix64 in Python's integers, and values that must not change."""

from __future__ import annotations

import math

import pytest
import torch

from lineas_core.models.language.sampling import GumbelNoise

SEEDS = [0, 1, 7, 2**63 - 1, 2**64 - 1, -5]
MASK = 2**64 - 1


def splitmix(state: int) -> int:
    """The next number of Steele, Lea and Flood's generator."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def gumbel(seed: int, step: int, token: int) -> float:
    stream = splitmix(splitmix(seed) + step)
    uniform = ((splitmix(stream + token * 0x9E3779B97F4A7C15) >> 41) + 0.5) / 2**23
    return -math.log(-math.log(uniform))


def test_noise_is_that_of_splitmix_at_each_seed_step_and_token() -> None:
    noise, tokens = GumbelNoise(SEEDS), range(20)
    for step in range(5):
        drawn = noise(torch.empty(0), torch.zeros(len(SEEDS), len(tokens)))
        wanted = [[gumbel(seed, step, token) for token in tokens] for seed in SEEDS]
        torch.testing.assert_close(drawn, torch.tensor(wanted), rtol=1e-5, atol=1e-5)


def test_what_a_seed_draws_does_not_change() -> None:
    noise, logits = GumbelNoise([1, -5]), torch.zeros(2, 4)
    first, *_, tenth = [noise(torch.empty(0), logits) for _ in range(10)]
    wanted = [
        [1.00515878200531, 3.552974224090576, 0.1601903736591339, 1.5351921319961548],
        [2.710925340652466, 1.758910894393921, 2.0979223251342773, 1.0719149112701416],
    ]
    torch.testing.assert_close(first, torch.tensor(wanted))
    wanted = [
        [-1.4180020093917847, 0.07864563912153244, -0.9147770404815674, 0.5588728189468384],
        [1.0207901000976562, -0.19686828553676605, 1.3824725151062012, -2.1575255393981934],
    ]
    torch.testing.assert_close(tenth, torch.tensor(wanted))


@pytest.mark.parametrize("top_k", [0, 5])
def test_rows_that_are_kept_go_on_with_their_own_noise(top_k: int) -> None:
    logits = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    kept, all_rows = GumbelNoise(SEEDS, top_k), GumbelNoise(SEEDS, top_k)
    for noise in (kept, all_rows):
        noise(torch.empty(0), logits)
    kept.keep([4, 1])
    assert torch.equal(
        kept(torch.empty(0), logits[[4, 1]]), all_rows(torch.empty(0), logits)[[4, 1]]
    )
