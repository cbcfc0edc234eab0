"""What docs/models.md says of the families is what the library does with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.architectures.__main__ import FAMILIES, PAGE
from tools.architectures.page import page_of
from tools.architectures.row import Row
from tools.architectures.workers import check_all

# One of each kind: plain, recurrent, with outputs in one dimension, with norms deep in its layers,
# without a cache, without gradients, an encoder by its config, and one by what it does.
FEW = ("llama", "mamba", "opt", "git", "blt", "reformer", "bert", "xlnet")


def outcomes(page: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Family -> cells of its line in the table, without notes; refused family -> reason."""
    table, refused = {}, {}
    before, _, after = page.partition("## Refused")
    for line in before.splitlines():
        family, *cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] or [""]
        if family and family not in ("family", "---"):
            table[family] = [re.sub(r" \(\d+\)$", "", cell) for cell in cells]
    for line in re.findall(r"^- (.+?): (.+)$", after, flags=re.MULTILINE):
        refused |= dict.fromkeys(line[0].split(", "), line[1])
    return table, refused


def checked(families: Sequence[str]) -> list[Row]:
    rows = list(check_all(families, processes=1))
    assert not {row.family: row.failures for row in rows if row.failures}
    return rows


@pytest.mark.thorough
def test_some_families_do_what_the_page_says() -> None:
    table, refused = outcomes(page_of(checked(FEW)))
    told, told_refused = outcomes(PAGE.read_text("utf-8"))
    assert table == {family: told[family] for family in table}
    assert refused == {family: told_refused[family] for family in refused}
    assert {*table, *refused} == set(FEW)


@pytest.mark.slow
def test_all_families_do_what_the_page_says() -> None:
    table, refused = outcomes(page_of(checked(FAMILIES)))
    told, told_refused = outcomes(PAGE.read_text("utf-8"))
    assert {family: cells[1] for family, cells in table.items()} == {
        family: cells[1] for family, cells in told.items()
    }
    assert refused == told_refused
    assert sum(cells[1] == "yes" for cells in table.values()) >= 95


@pytest.mark.thorough
def test_a_family_that_takes_too_long_is_a_row() -> None:
    (row,) = check_all(["llama"], processes=1, seconds=0.001)
    assert row.failures == {"loads": "took longer than 0.001 s"}


def test_the_page_tells_each_outcome_and_reason(tmp_path: Path) -> None:
    from tools.architectures.row import Cell

    fine = {"loads": Cell("yes"), "sites": Cell("yes", "`a|b`: 2")}
    sites = "2 sites cannot be folded into weights. a.0, a.1: they have no weights. Choose others."
    rows = [
        Row("one", fine | {"trains": Cell("yes"), "folds": Cell("refused", sites)}),
        Row("two", fine | {"trains": Cell("fails", "ValueError: no")}),
        Row("three", {"loads": Cell("refused", "three (three) is an encoder. Choose another.")}),
    ]
    page = page_of(rows)
    assert "Of 3 families 2 load, and 1 of these train" in page
    assert outcomes(page) == (
        {
            "one": [r"`a\|b`: 2", "yes", "-", "-", "refused", "-"],
            "two": [r"`a\|b`: 2", "**fails**", "-", "-", "-", "-"],
        },
        {"three": "an encoder."},
    )
    assert "1. They have no weights.\n2. ValueError: no." in page
