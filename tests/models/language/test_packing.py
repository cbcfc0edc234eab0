"""Packed batches (no padding) against the same tokens in padded rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

import lineas_core as lc
from lineas_core.activations import pooled_activations
from lineas_core.models.language.packing import FAMILIES, PREFIX, Packing
from tests.helpers.models import save_checkpoint

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


SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 257,
         "bos_token_id": 256, "eos_token_id": 257}  # fmt: skip
# What a family has beside, such as a window that the longest prompt exceeds.
BESIDE = {
    "mistral": {"sliding_window": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 8},
    "phi3": {"sliding_window": 8},
    "qwen2": {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"head_dim": 8, "sliding_window": 8, "use_sliding_window": True,
              "max_window_layers": 1},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
}  # fmt: skip
TEXTS = ["A", "Rather more words than the window holds", "Some words", "Hi there"]


# Gemma 2 caps its scores, which torch's own attention does not.
@pytest.mark.parametrize(
    ("family", "attention"),
    [pair for pair in product(FAMILIES, ("sdpa", "eager")) if pair != ("gemma2", "sdpa")],
)
def test_packed_texts_are_read_as_they_are_alone(
    tmp_path: Path, family: str, attention: str
) -> None:
    kind = transformers.CONFIG_MAPPING[family]
    config = kind(**({} if family == "gpt2" else SMALL) | BESIDE.get(family, {}))
    model = lc.load_model(str(save_checkpoint(config, tmp_path)), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    model.module.set_attn_implementation(PREFIX + attention)
    sites = model.sites(model.default_sites)
    inputs = model.prepare(TEXTS)
    assert inputs.packing is not None
    together = pooled_activations(model, inputs, sites)
    # In prompts of one length, packing changes the shape only.
    alike = pooled_activations(model, model.prepare([TEXTS[1]] * 2), sites)
    model.module.set_attn_implementation(attention)
    for row, text in enumerate(TEXTS):
        plain = replace(model.prepare([text]), packs=False)
        alone = pooled_activations(model, plain, sites)
        for site in sites:
            torch.testing.assert_close(together[site][row], alone[site][0], atol=1e-5, rtol=1e-4)
            if row == 1:
                torch.testing.assert_close(alike[site][1], alone[site][0], atol=1e-5, rtol=1e-4)
