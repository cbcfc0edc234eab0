"""With a calibration, equal steps of the slider change the output by equal amounts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import lineas_core as lc
from lineas_core.diagnostics.calibration import (
    calibrate,
    curve_of,
    from_measurements,
    jensen_shannon,
)
from lineas_core.maps.calibration import Calibration
from lineas_core.steering import steer
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.storage.rows import MapRow
from lineas_core.studio.storage.sidecars import read_row, write_row
from tests.helpers.models import random_map

PROMPTS = ["abc ab", "cab", "ba ba"]
TENTHS = [tenth / 10 for tenth in range(11)]
CURVE = Calibration(((0.0, 0.0), (0.5, 0.125), (0.75, 0.875), (1.0, 1.0)))


def flip(strengths: Sequence[float]) -> list[float]:
    """A curve where nearly all of the change happens at 0.5."""
    return [0.3 / (1 + math.exp(-40 * (s - 0.5))) for s in strengths]


def rise_and_fall(strengths: Sequence[float]) -> list[float]:
    return [math.sin(2.5 * s) for s in strengths]


def factor(parts: Sequence[float]) -> float:
    return max(parts) / min(parts)


def test_equal_steps_go_equal_parts_of_a_known_way() -> None:
    curve = curve_of(flip)
    assert curve is not None
    before, after = (
        [b - a for a, b in pairwise(flip(levels))]
        for levels in (TENTHS, [curve.strength(share) for share in TENTHS])
    )
    assert factor(before) > 20
    assert factor(after) < 2


def test_a_way_that_goes_back_is_followed_as_well() -> None:
    curve = curve_of(rise_and_fall)
    assert curve is not None
    fine = [n / 1000 for n in range(1001)]
    steps = [abs(b - a) for a, b in pairwise(rise_and_fall([curve.strength(s) for s in fine]))]
    assert factor([sum(steps[n : n + 100]) for n in range(0, 1000, 100)]) < 1.3


def test_share_and_strength_are_inverse_and_rise_and_agree_beyond() -> None:
    for curve in (CURVE, curve_of(flip)):
        assert curve is not None
        shares = [curve.share(n / 200) for n in range(-200, 401)]
        assert all(a < b for a, b in pairwise(shares))
        assert [curve.strength(s) for s in shares] == pytest.approx(
            [n / 200 for n in range(-200, 401)], abs=1e-4
        )
    assert [CURVE.share(s) for s in (-1.0, 0.0, 1.0, 2.0)] == [-1.0, 0.0, 1.0, 2.0]


def test_a_way_of_nothing_has_no_calibration() -> None:
    assert from_measurements([(0.0, 0.0), (1.0, 0.0)]) is None
    assert from_measurements([(0.0, 0.0), (1.0, math.nan)]) is None


@pytest.mark.parametrize(
    "points", [(), ((0.0, 0.0),), ((0.0, 0.0), (0.5, 0.5), (0.5, 0.6), (1.0, 1.0))]
)
def test_what_does_not_rise_from_0_to_1_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(lc.ConfigError, match="rising from 0 to 1"):
        Calibration(points)


def test_divergence_of_distributions_by_hand() -> None:
    p, q = torch.tensor([[0.9, 0.1], [1.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    by_hand = 0.5 * sum(
        a * math.log(a / ((a + b) / 2)) for x in ((0.9, 0.5), (0.1, 0.5)) for a, b in (x, x[::-1])
    )
    assert jensen_shannon(p.log(), q.log()).tolist() == pytest.approx([by_hand, math.log(2)])


def test_a_language_model_is_followed_by_its_next_token_distributions(
    tiny: lc.LanguageModel,
) -> None:
    smap = random_map({"model.layers.1.post_attention_layernorm": 16}, 0, spread=2.0)
    curve = calibrate(tiny, smap, PROMPTS)
    assert curve is not None
    assert curve == calibrate(tiny, smap, PROMPTS)

    def far(strength: float) -> float:
        rows, plain = [], []
        for prompt in PROMPTS:
            ids = torch.tensor([tiny.tokenizer(prompt)["input_ids"]])
            plain.append(tiny.module(ids).logits[0].log_softmax(-1))
            with steer(tiny, [(smap, strength)]):
                rows.append(tiny.module(ids).logits[0].log_softmax(-1))
        return float(jensen_shannon(torch.cat(rows), torch.cat(plain)).mean())

    with torch.no_grad():
        way = [far(curve.strength(share / 200)) for share in range(201)]
    steps = [abs(b - a) for a, b in pairwise(way)]
    assert factor([sum(steps[n : n + 20]) for n in range(0, 200, 20)]) < 2
    assert calibrate(tiny, smap, []) is None
    assert calibrate(tiny, lc.SteeringMap.identity(smap.widths), PROMPTS) is None


def test_a_file_a_record_and_a_rack_keep_it(tmp_path: Path) -> None:
    plain = random_map({"n": 3}, 0)
    smap = replace(plain, info=replace(plain.info, calibration=CURVE.points))
    assert lc.SteeringMap.load(smap.save(tmp_path / "a.safetensors")).info == smap.info
    assert lc.SteeringMap.load(plain.save(tmp_path / "b.safetensors")).info.calibration == ()
    damaged = replace(plain, info=replace(plain.info, calibration=((0.0, 0.0), (1.0, 0.5))))
    with pytest.raises(lc.MapError, match="calibration"):
        damaged.save(tmp_path / "c.safetensors")

    row = MapRow("m", "ada", "T", "x", "text", "d", 1.0, calibration=CURVE.points)
    record = tmp_path / "m.json"
    write_row(record, row)
    assert read_row(record, MapRow) == row
    # Records from older versions do not have this field.
    old = json.loads(record.read_text("utf-8"))
    del old["calibration"]
    record.write_text(json.dumps(old), "utf-8")
    assert read_row(record, MapRow) == replace(row, calibration=())

    state = RackState(even=False)
    assert RackState.from_page({"state": state.to_page()}) == state
    assert RackState.from_page({"state": {}}).even
