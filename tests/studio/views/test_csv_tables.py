"""CSV files: read by Python's own reader, they hold what was written, and no formula."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lineas_core as lc
from lineas_core.maps.steering_map import Affine
from lineas_core.prompts.csv_injection import unescaped
from lineas_core.studio.views.csv_tables import loss_rows, site_rows, write_csv


def read(file: str) -> list[list[str]]:
    with open(file, encoding="utf-8-sig", newline="") as opened:
        return list(csv.reader(opened))


def test_texts_are_no_formulas_and_numbers_stay_numbers(tmp_path: Path) -> None:
    texts = ["=1+1", "a;-1", "two\nlines", 'quote " and, comma', "é ü 漢"]
    file = write_csv(tmp_path / "t.csv", ["=head", "x"], [(t, -0.1) for t in texts] + [("", None)])
    assert Path(file).read_bytes().startswith(b"\xef\xbb\xbf")
    header, *rows, last = read(file)
    assert header[0] == "'=head"
    assert [unescaped(row[0]) for row in rows] == texts
    assert not any(row[0].startswith("=") for row in rows)
    assert {float(row[1]) for row in rows} == {-0.1}
    assert last == ["", ""]


def test_layers_are_told_as_the_charts_show_them(tmp_path: Path) -> None:
    scale, shift = torch.tensor([1.0, 3.0, 2.0, 1.0]), torch.tensor([0.0, -1.0, 0.0, 0.5])
    same = Affine(torch.ones(2), torch.zeros(2))
    smap = lc.SteeringMap({"a": Affine(scale, shift), "b": same})
    header, first, second = read(write_csv(tmp_path / "t.csv", *site_rows(smap, None)))
    found = dict(zip(header, first, strict=True))
    assert (found["site"], found["neurons"], float(found["share changed"])) == ("a", "4", 0.75)
    for part, values in (("scale - 1", [2, 1]), ("shift", [-1, 0.5])):
        for q in (5, 25, 50, 75, 95):
            assert float(found[f"{part} {q} %"]) == pytest.approx(np.percentile(values, q))
    assert second[2:] == ["0.0", *[""] * 12]
    kept = read(write_csv(tmp_path / "l.csv", *loss_rows([math.pi, 1.0], [0.5])))
    assert [float(cell) for cell in kept[1]] == [1, math.pi, 0.5]
    assert kept[2] == ["2", "1.0", ""]
