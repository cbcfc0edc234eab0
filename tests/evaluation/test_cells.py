from __future__ import annotations

from pathlib import Path

import pytest

import lineas_core as lc
from lineas_core.evaluation import cells
from lineas_core.evaluation.cells import Bench, Cell, Row


def test_a_cell_is_measured_once_until_something_that_it_depends_on_changes(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Cell] = []

    def measure(cell: Cell) -> list[Row]:
        measured.append(cell)
        return [{"number": len(measured)}]

    file = prompts.save(tmp_path / "letters.json")
    asked = [{"concept": "day", "method": "lineas+"}, {"concept": str(file), "method": "lineas"}]

    def numbers() -> list[int]:
        return list(Bench(tiny, tmp_path / "bench").rows("table", asked, measure)["number"])

    assert numbers() == numbers() == [1, 2]
    file.write_text(file.read_text("utf-8").replace("xyz", "zyx"), "utf-8")
    assert numbers() == numbers() == [1, 3]
    monkeypatch.setattr(cells, "OF_METHOD", {"lineas+": {"steps": 7}})
    assert numbers() == numbers() == [4, 5]
