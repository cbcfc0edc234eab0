"""Packed batches (no padding) against the same tokens in padded rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lineas_core.models.language.packing import Packing

LENGTHS = [
    pytest.param([5], id="one"),
    pytest.param([3, 3, 3], id="alike"),
    pytest.param([40, 1, 7, 7, 2, 1], id="unlike"),
    pytest.param([9 + i % 32 for i in range(0, 320, 9)], id="many"),
    pytest.param([200, 3, 180, 5, 100, 2, 1, 90], id="long and short"),
]


def mask_of(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def packed(mask: Tensor, rows: Tensor) -> Tensor:
    return rows.flatten(0, 1)[Packing.of(mask.sum(dim=1).tolist()).places]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_ends_and_averages_are_those_of_the_rows(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    rows = torch.randn(*mask.shape, 4, generator=torch.Generator().manual_seed(0))
    packing, row = Packing.of(lengths), packed(mask, rows)
    means = torch.stack([r[:n].mean(dim=0) for r, n in zip(rows, lengths, strict=True)])
    assert torch.equal(row[packing.ends], rows[torch.arange(len(rows)), mask.sum(dim=1) - 1])
    torch.testing.assert_close(packing.averages @ row, means)
    assert packing.lengths == tuple(lengths)
    assert (
        packing.positions[0].tolist() == (mask.cumsum(dim=1) - 1).flatten()[packing.places].tolist()
    )


@pytest.mark.parametrize("lengths", LENGTHS)
def test_groups_hold_every_token_once_with_its_own_prompt(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    owner = torch.arange(len(lengths))[:, None].expand(mask.shape)
    place = torch.arange(mask.shape[1]).expand(mask.shape)
    packing = Packing.of(lengths)
    sizes = [len(group.places) for group in packing.groups]
    row = torch.stack([packed(mask, owner), packed(mask, place)], dim=1)
    found: list[int] = []
    for group, part in zip(packing.groups, row.split(sizes), strict=True):
        padded = group.spread(part)
        for prompt in padded:
            mine = int(prompt[0, 0])
            real = prompt[: lengths[mine]]
            assert (real[:, 0] == mine).all()
            assert real[:, 1].tolist() == list(range(lengths[mine]))
            found.append(mine)
        assert torch.equal(group.gathered(padded), part)
    assert sorted(found) == list(range(len(lengths)))


def test_short_prompts_are_not_padded_to_long_ones_where_that_costs_much() -> None:
    alike = Packing.of([30] * 32)
    unlike = Packing.of([10] * 24 + [100] * 8)
    assert len(alike.groups) == 1
    assert [(g.count, g.longest) for g in unlike.groups] in (
        [(8, 10), (8, 10), (8, 10), (8, 100)],
        [(24, 10), (8, 100)],
    )
