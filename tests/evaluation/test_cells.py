from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest

import lineas_core as lc
from lineas_core.evaluation import cells
from lineas_core.evaluation.cells import Bench, Cell, Row
from lineas_core.evaluation.report import Table
from lineas_core.evaluation.tables import NAMES, find_table


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


@pytest.mark.parametrize(
    ("table", "field"),
    [
        (find_table(name), field)
        for name in NAMES
        for field in ("methods", "layer_methods")
        if field in get_type_hints(find_table(name).sizes)
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_table_measures_nothing_for_a_method_that_is_not_there(
    table: Table, field: str, tiny: lc.LanguageModel, tmp_path: Path
) -> None:
    sizes = table.sized({field: "mean-act,magic"})
    with pytest.raises(lc.ConfigError, match=rf"{field} holds 'magic'.*lin-act"):
        table.measure(Bench(tiny, tmp_path), sizes, [0])
    assert not list(tmp_path.iterdir())
