from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from lineas_core.prompts.prompt_set import PromptSet, shipped_prompt_sets
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.prompts import prompt_set, sides_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.train.prompts import PromptCallbacks
from lineas_core.studio.tabs.train.uploads import UploadCallbacks
from lineas_core.studio.tabs.train.writing import WritingCallbacks
from tests.helpers.studio import ANN, BOB, answers_of

NIGHT = PromptSet.load("night")


def columns(table: list[list[str]]) -> tuple[list[str], list[str]]:
    return sides_of(table)


def test_a_shipped_set_fills_the_table(studio: Studio) -> None:
    table, marks, name, concept, preview = PromptCallbacks(studio, answers_of(studio)).choose(
        ANN, "night"
    )
    assert columns(table) == (NIGHT.source, NIGHT.target)
    assert (name, concept) == (NIGHT.title, NIGHT.concept)
    assert preview
    assert marks.count("ls-full") == 2


def test_lines_that_repeat_are_marked_where_they_are(studio: Studio) -> None:
    table = [["a quiet evening", "the moon", ""], ["", "stars", ""], ["a quiet evening", "", ""]]
    shown, marks = PromptCallbacks(studio, answers_of(studio)).mark(table)
    assert [row[:2] for row in shown] == [
        ["a quiet evening", "the moon"],
        ["a quiet evening", "stars"],
    ]
    assert "source" in shown[1][2]
    assert shown[0][2] == ""
    assert '<b class="ls-short">2</b> / 32 source' in marks
    assert "1 line marked" in marks
    again, _ = PromptCallbacks(studio, answers_of(studio)).mark(shown)
    assert again == gr.skip()


def uploaded(work: UploadCallbacks, table: list[list[str]], *files: Path, filled: str = "") -> Any:
    return work.upload(ANN, "text", [str(file) for file in files], table, filled)._asdict()


def pasted(work: UploadCallbacks, text: str, side: Any, table: Any, filled: str = "") -> Any:
    return work.paste(ANN, "text", text, side, table, filled)._asdict()


def test_files_fill_the_sides_that_they_give(studio: Studio, tmp_path: Path) -> None:
    work = UploadCallbacks(answers_of(studio))
    one, target = tmp_path / "one.txt", tmp_path / "my target.txt"
    one.write_text("a\nb\n")
    target.write_text("x\ny\nz\n")
    got = uploaded(work, [], one, target)
    assert columns(got["table"]) == (["a", "b"], ["x", "y", "z"])
    (tmp_path / "both.csv").write_text("Target,Source\nq,p\n")
    got = uploaded(work, got["table"], tmp_path / "both.csv")
    assert columns(got["table"]) == (["p"], ["q"])
    assert "1</b> / 32 source" in got["counts"]
    (tmp_path / "only.jsonl").write_text('{"target": "t"}\n')
    got = uploaded(work, got["table"], tmp_path / "only.jsonl")
    assert columns(got["table"]) == (["p"], ["t"])
    # Two files of which neither says its side, one after the other.
    got = uploaded(work, got["table"], one)
    got = uploaded(work, got["table"], tmp_path / "one.txt", filled=got["filled"])
    assert columns(got["table"]) == (["a", "b"], ["a", "b"])


def test_each_file_is_judged_alone_and_none_blocks_the_next(studio: Studio, tmp_path: Path) -> None:
    work = UploadCallbacks(answers_of(studio))
    bad, good = tmp_path / "bad<b>.json", tmp_path / "fog.csv"
    bad.write_text('{"source": [')
    good.write_text("source,target\na fox,a fox in fog\n")
    table = [["old", "old too", ""]]
    got = uploaded(work, table, bad)
    assert got["table"] == got["name"] == got["concept"] == gr.skip()
    assert "bad&lt;b&gt;.json</b> was not read" in got["report"]
    assert got["files"] is None
    got = uploaded(work, table, bad, good)
    assert columns(got["table"]) == (["a fox"], ["a fox in fog"])
    assert got["name"] == "fog"
    assert "was not read" in got["report"]
    assert "<b>fog.csv</b>: 1 source, 1 target." in got["report"]


def test_columns_that_do_not_say_are_chosen(studio: Studio, tmp_path: Path) -> None:
    work = UploadCallbacks(answers_of(studio))
    file = tmp_path / "behaviors.csv"
    file.write_text("goal,target\nAsk for bread,Sure here is bread\nAsk for tea,Sure have tea\n")
    got = uploaded(work, [["old", "old too", ""]], file)
    assert got["table"] == gr.skip()
    assert "behaviors.csv</b> waits for an answer" in got["report"]
    assert got["panel"]["visible"]
    labels = [label for label, _ in got["from_column"]["choices"]]
    assert labels == ["goal: “Ask for bread”", "target: “Sure here is bread”"]
    got = work.answer(ANN, "text", [], got["waiting"], "0", "1")._asdict()
    assert columns(got["table"]) == (
        ["Ask for bread", "Ask for tea"],
        ["Sure here is bread", "Sure have tea"],
    )
    assert got["name"] == "behaviors"
    assert got["waiting"] is None
    waiting = uploaded(work, [], file)["waiting"]
    for chosen, message in ((("0", "0"), "both goal"), ((None, None), "Choose a column")):
        with pytest.raises(gr.Error, match=message):
            work.answer(ANN, "text", [], waiting, *chosen)


def test_a_set_is_called_as_what_was_uploaded_or_pasted(studio: Studio, tmp_path: Path) -> None:
    sets, work = PromptCallbacks(studio, answers_of(studio)), UploadCallbacks(answers_of(studio))
    table = sets.choose(ANN, "night")[0]
    file = tmp_path / "my_fog-v2.csv"
    file.write_text("source,target\na fox,a fox in fog\n")
    got = uploaded(work, table, file)
    assert (got["name"], got["concept"]) == ("my_fog-v2", "")
    assert "write under Concept what the targets have" in got["counts"]
    unsaved = got["chosen"]["value"]
    assert unsaved not in shipped_prompt_sets()
    # The list's new entry asks for the table that is there: it must not be taken away.
    assert sets.choose(ANN, unsaved) == (gr.skip(),) * 5
    with pytest.raises(gr.Error, match="not saved"):
        sets.delete(ANN, "text", unsaved)
    said = {"title": "Sea fog", "concept": "fog", "source": ["a"], "target": ["b"]}
    (tmp_path / "x.json").write_text(json.dumps(said))
    got = uploaded(work, table, tmp_path / "x.json")
    assert (got["name"], got["concept"]) == ("Sea fog", "fog")
    got = pasted(work, "a\nb", "source", table)
    assert (got["name"], got["concept"]) == ("Pasted prompts", "")
    assert f"The {len(NIGHT.target)} target prompts that were there stay." in got["counts"]
    # The other side completes the set, whose name may have been written meanwhile.
    got = pasted(work, "x\ny", "target", got["table"], got["filled"])
    assert (got["name"], got["concept"]) == (gr.skip(), gr.skip())


def test_pasted_lines_go_where_they_are_told(studio: Studio) -> None:
    work = UploadCallbacks(answers_of(studio))
    got = pasted(work, "a\nb", "source", [])
    got = pasted(work, "x\ny\nz", "target", got["table"])
    assert columns(got["table"]) == (["a", "b"], ["x", "y", "z"])
    assert "does not say" not in got["report"]
    both = json.dumps({"source": ["p"], "target": ["q"]})
    got = pasted(work, both, "target", got["table"])
    assert columns(got["table"]) == (["p"], ["q"])
    got = pasted(work, '{"source": ["r"]}', "target", got["table"])
    assert columns(got["table"]) == (["p"], ["r"])
    assert "went to target, as you said" in got["report"]


def test_a_saved_set_is_its_visitors_own_and_trains_the_same(studio: Studio) -> None:
    answers = answers_of(studio)
    work, sets = PromptCallbacks(studio, answers), answers.prompts
    table: list[list[Any]] = [[a, b, ""] for a, b in zip(NIGHT.source, NIGHT.target, strict=True)]
    update, said = work.save(ANN, "text", "My <night>!", "night", table)
    assert "My &lt;night&gt;!" in said
    kept = sets.find(owner_of(ANN), update["value"])
    assert kept.hash() == NIGHT.hash()
    assert (kept.title, kept.concept, kept.name) == ("My <night>!", "night", "my-night")
    assert update["value"] not in [chosen for _, chosen in sets.choices(owner_of(BOB), "text")]
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
    work = PromptCallbacks(studio, answers_of(studio))
    files = [Path(f) for f in work.download(ANN, "text", "N", "night", table)]
    loaded = PromptSet.load(next(f for f in files if f.suffix == ".json"))
    assert (loaded.source, loaded.target) == (NIGHT.source, NIGHT.target)
    assert {f.suffix for f in files} == {".json", ".csv"}


def test_every_shipped_set_is_among_the_choices(studio: Studio) -> None:
    work = answers_of(studio).prompts
    offered = {c for kind in ("text", "image") for _, c in work.choices(owner_of(ANN), kind)}
    assert offered == set(shipped_prompt_sets())


def test_mistakes_about_prompts_become_messages(studio: Studio) -> None:
    answers = answers_of(studio)
    work, uploads = PromptCallbacks(studio, answers), UploadCallbacks(answers)
    writing = WritingCallbacks(studio, answers)
    for attempt, message in (
        (lambda: uploads.paste(ANN, "text", "  ", "source", [], ""), "Nothing was pasted"),
        (lambda: list(writing.write(ANN, "text", " ", 0, "smollm2")), "few words"),
        (lambda: work.save(ANN, "text", "n", "c", [["a", "b", ""]]), "give 4 or more"),
        (lambda: work.mark([["a", "b", ""]] * 300), "256 at most"),
    ):
        with pytest.raises(gr.Error, match=message):
            attempt()


def test_a_table_without_a_name_is_named_after_its_concept() -> None:
    table = [[f"a {n}", f"b {n}", ""] for n in range(4)]
    assert prompt_set("image", "", "gold leaf", table).name == "gold-leaf"
    assert prompt_set("image", " ", "", table).title == "Untitled"
