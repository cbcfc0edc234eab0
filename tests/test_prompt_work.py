from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from lineas_core.prompts import PromptSet, shipped_prompt_sets
from lineas_core.studio.callbacks import Studio
from lineas_core.studio.prompt_work import PromptWork, prompt_set, sides_of
from lineas_core.studio.visitors import owner_of
from tests.studio_parts import ANN, BOB, studio

__all__ = ["studio"]

NIGHT = PromptSet.load("night")


def columns(table: list[list[str]]) -> tuple[list[str], list[str]]:
    return sides_of(table)


def test_a_shipped_set_fills_the_table(studio: Studio) -> None:
    table, marks, name, concept, preview = PromptWork(studio).choose(ANN, "night")
    assert columns(table) == (NIGHT.source, NIGHT.target)
    assert (name, concept) == (NIGHT.title, NIGHT.concept)
    assert preview
    assert marks.count("ls-full") == 2


def test_lines_that_repeat_are_marked_where_they_are(studio: Studio) -> None:
    table = [["a quiet evening", "the moon", ""], ["", "stars", ""], ["a quiet evening", "", ""]]
    shown, marks = PromptWork(studio).mark(table)
    assert [row[:2] for row in shown] == [
        ["a quiet evening", "the moon"],
        ["a quiet evening", "stars"],
    ]
    assert "source" in shown[1][2]
    assert shown[0][2] == ""
    assert '<b class="ls-short">2</b> / 32 source' in marks
    assert "1 line marked" in marks
    again, _ = PromptWork(studio).mark(shown)
    assert again == gr.skip()


def test_files_fill_the_sides_that_they_give(studio: Studio, tmp_path: Path) -> None:
    work = PromptWork(studio)
    (tmp_path / "one.txt").write_text("a\nb\n")
    (tmp_path / "my target.txt").write_text("x\ny\nz\n")
    table, marks = work.upload([str(tmp_path / "one.txt"), str(tmp_path / "my target.txt")], [])
    assert columns(table) == (["a", "b"], ["x", "y", "z"])
    (tmp_path / "both.csv").write_text("Target,Source\nq,p\n")
    table, marks = work.upload([str(tmp_path / "both.csv")], table)
    assert columns(table) == (["p"], ["q"])
    assert "1</b> / 32 source" in marks
    (tmp_path / "only.jsonl").write_text('{"target": "t"}\n')
    table, _ = work.upload([str(tmp_path / "only.jsonl")], table)
    assert columns(table) == (["p"], ["t"])


def test_pasted_lines_go_where_they_are_told(studio: Studio) -> None:
    work = PromptWork(studio)
    table, _ = work.paste("a\nb", "source", [])
    table, _ = work.paste("x\ny\nz", "target", table)
    assert columns(table) == (["a", "b"], ["x", "y", "z"])
    table, _ = work.paste(json.dumps({"source": ["p"], "target": ["q"]}), "target", table)
    assert columns(table) == (["p"], ["q"])


def test_a_saved_set_is_its_visitors_own_and_trains_the_same(studio: Studio) -> None:
    work = PromptWork(studio)
    table: list[list[Any]] = [[a, b, ""] for a, b in zip(NIGHT.source, NIGHT.target, strict=True)]
    update, said = work.save(ANN, "text", "My <night>!", "night", table)
    assert "My &lt;night&gt;!" in said
    kept = work.find(owner_of(ANN), update["value"])
    assert kept.hash() == NIGHT.hash()
    assert (kept.title, kept.concept, kept.name) == ("My <night>!", "night", "my-night")
    assert update["value"] not in [chosen for _, chosen in work.choices(owner_of(BOB), "text")]
    with pytest.raises(gr.Error, match="no prompt set"):
        work.choose(BOB, update["value"])
    with pytest.raises(gr.Error, match="no prompt set"):
        work.delete(BOB, "text", update["value"])
    shown, deleted, undo = work.delete(ANN, "text", update["value"])
    assert update["value"] not in [chosen for _, chosen in shown["choices"]]
    assert undo["visible"]
    assert work.undelete(ANN, "text", deleted)[0]["value"] == update["value"]
    with pytest.raises(gr.Error, match="ships with the app"):
        work.delete(ANN, "text", "night")


def test_a_set_is_downloaded_as_files_that_load(studio: Studio) -> None:
    table = [[a, b, "note"] for a, b in zip(NIGHT.source, NIGHT.target, strict=True)]
    files = [Path(f) for f in PromptWork(studio).download("text", "N", "night", table)]
    loaded = PromptSet.load(next(f for f in files if f.suffix == ".json"))
    assert (loaded.source, loaded.target) == (NIGHT.source, NIGHT.target)
    assert {f.suffix for f in files} == {".json", ".csv"}


def test_every_shipped_set_is_among_the_choices(studio: Studio) -> None:
    work = PromptWork(studio)
    offered = {c for kind in ("text", "image") for _, c in work.choices(owner_of(ANN), kind)}
    assert offered == set(shipped_prompt_sets())


def test_mistakes_about_prompts_become_messages(studio: Studio, tmp_path: Path) -> None:
    work = PromptWork(studio)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    for attempt, message in (
        (lambda: work.upload([str(tmp_path / "x.txt")], []), "x.txt"),
        (lambda: work.paste("  ", "source", []), "Nothing was pasted"),
        (lambda: list(work.write(ANN, "text", " ", 0, "smollm2")), "few words"),
        (lambda: work.save(ANN, "text", "n", "c", [["a", "b", ""]]), "give 4 or more"),
        (lambda: work.mark([["a", "b", ""]] * 300), "256 at most"),
    ):
        with pytest.raises(gr.Error, match=message):
            attempt()


def test_a_table_without_a_name_is_named_after_its_concept() -> None:
    table = [[f"a {n}", f"b {n}", ""] for n in range(4)]
    assert prompt_set("image", "", "gold leaf", table).name == "gold-leaf"
    assert prompt_set("image", " ", "", table).title == "Untitled"
