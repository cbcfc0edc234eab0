from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

import lineas_core as lc
from lineas_core.models.load import as_image_model
from lineas_core.scenes.bundle import read_bundle
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.rack.screen import Screen
from lineas_core.studio.storage.map_files import MapFiles
from lineas_core.studio.tabs.images.callbacks import ImageCallbacks
from lineas_core.studio.tabs.library.callbacks import LibraryCallbacks
from lineas_core.studio.tabs.library.hub import HubCallbacks
from lineas_core.studio.tabs.library.sharing import SharingCallbacks
from tests.helpers.models import random_map
from tests.helpers.snippets import run_here
from tests.helpers.studio import ANN, BOB, answers_of, rack


def choices(shown: Any) -> dict[str, str]:
    return {row["id"]: f"{row['title']} {row['said']}" for row in shown[0]["rows"]}


def test_maps_are_found_named_deleted_and_brought_back(studio: Studio, inks: list[str]) -> None:
    work = LibraryCallbacks(studio, answers_of(studio))
    own = set(inks)
    assert own <= set(choices(work.listed(ANN, "", [])))
    news = work.rename(ANN, [inks[0]], "  Blue   ink ", "bold, wet,bold")
    assert "Blue ink" in [row["title"] for row in news["catalog"]]
    found = choices(work.listed(ANN, "BOLD blue", inks))
    assert set(found) == {inks[0]}
    assert "#bold #wet" in found[inks[0]]
    card, title, tags = work.describe(ANN, [inks[0]])
    assert (title, tags) == ("Blue ink", "bold, wet")
    assert "ink" in card


def test_an_undo_is_where_the_deletion_was_and_puts_the_map_back_on_the_rack(
    studio: Studio, inks: list[str], words: str
) -> None:
    work = LibraryCallbacks(studio, answers_of(studio))
    before = rack((inks[0], 0.3), (words, 0.8), (inks[1], 0.6), solo=inks[1])
    before["state"]["rows"][2]["on"] = False
    places, listed, news = work.delete(ANN, inks, before, {})
    assert [gone["title"] for gone in listed["gone"]] == ["Map 0", "Map 1"]
    assert not set(inks) & {row["id"] for row in news["catalog"]}
    assert not set(inks) & set(choices(work.listed(ANN, "", inks)))
    left = rack((words, 0.9))
    listed, news = work.undo(ANN, [inks[1]], left, places)
    assert listed["back"] == [inks[1]]
    assert [row["id"] for row in news["state"]["rows"]] == [words, inks[1]]
    _, news = work.undo(ANN, [inks[0]], {"state": news["state"]}, places)
    back = RackState.from_page({"state": news["state"]})
    assert [(slot.id, slot.strength, slot.on) for slot in back.slots] == [
        (inks[0], 0.3, True), (words, 0.9, True), (inks[1], 0.6, False),
    ]  # fmt: skip
    assert (back.solo, news["ask"]) == (inks[1], True)
    assert set(inks) <= {row["id"] for row in news["catalog"]}
    # What was not on the rack does not come onto it.
    places, *_ = work.delete(ANN, inks, left, {})
    assert "state" not in work.undo(ANN, inks, left, places)[1]


def test_a_map_looks_as_it_steers_and_its_look_goes_with_it(
    studio: Studio, inks: list[str], painter: str, words: str
) -> None:
    work, ann = LibraryCallbacks(studio, answers_of(studio)), owner_of(ANN)
    # No model is loaded for it.
    assert list(work.glances(ANN)) == []
    model = as_image_model(studio.model_cache.get(painter))
    made = [next(iter(news["glances"].items())) for news in work.glances(ANN)]
    assert {map_id for map_id, _ in made} == set(inks)
    shown = work.listed(ANN, "", [])[0]["glances"]
    assert shown == dict(made)
    for map_id in inks:
        [wanted] = model.generate(["a house"], [(studio.library.map(map_id, ann), 1.0)], seed=0)
        data = base64.b64decode(shown[map_id]["image"].partition(",")[2])
        assert Image.open(io.BytesIO(data)).convert("RGB").tobytes() == wanted.tobytes()
    assert list(work.glances(ANN)) == []
    studio.library.glance(inks[0]).write_text("{")
    assert len(list(work.glances(ANN))) == 1
    files = [studio.library.glance(map_id) for map_id in inks]
    for map_id in inks:
        studio.library.delete(map_id, ann)
    MapFiles(studio.settings.home / "maps").remove(inks[0])
    assert [file.exists() for file in files] == [False, True]
    news = work.add(ANN, [words], rack((inks[0], 0.5)))
    assert [(row["id"], row["on"]) for row in news["state"]["rows"]][1:] == [(words, True)]
    assert news["state"]["modality"] == "text"


def test_an_exported_map_comes_in_again_as_it_was(
    studio: Studio, inks: list[str], prompts: lc.PromptSet
) -> None:
    work, ann = SharingCallbacks(studio, answers_of(studio)), owner_of(ANN)
    known = {"prompts": prompts, "recommended": 0.65, "tags": ("bold", "wet")}
    told = studio.library.add_map(
        ann, studio.library.map(inks[0], ann), title="Blaue Tinte", **known
    )
    twin = studio.library.add_map(ann, studio.library.map(inks[1], ann), title="Map 1")
    files = work.export(ANN, [told.id, inks[1], inks[1], twin.id])["value"]
    assert [Path(file).name for file in files] == [
        "Blaue-Tinte.safetensors", "Map-1.safetensors", "Map-1-2.safetensors",
    ]  # fmt: skip
    said, news, *_ = work.take_in(BOB, files[:2])
    assert "2 maps are in" in said
    bare, mine = studio.library.maps(owner_of(BOB), include_gallery=False)
    assert {mine.title, *mine.tags} == {"Blaue Tinte", "bold", "wet"}
    assert (mine.prompts, mine.recommended, mine.digest) == (prompts, 0.65, told.digest)
    assert (bare.title, bare.tags, bare.prompts, bare.recommended) == ("Map 1", (), None, None)
    assert news["add"] == [mine.id]


def test_what_a_file_says_beside_its_map_is_refused_field_by_field(
    studio: Studio, inks: list[str], tmp_path: Path
) -> None:
    work, smap = (
        SharingCallbacks(studio, answers_of(studio)),
        studio.library.map(inks[0], owner_of(ANN)),
    )
    hostile = {
        "title": "<b>" + "x" * 200, "tags": ["fine"], "recommended": float("nan"),
        "prompts": {"name": "p", "source": ["a"], "target": 3}, "owner": "gallery", "id": "../x",
    }  # fmt: skip
    file = smap.save(tmp_path / "hostile.safetensors", hostile)
    said, *_ = work.take_in(ANN, [str(file)])
    row = studio.library.maps(owner_of(ANN))[0]
    assert (row.title, row.tags, row.recommended, row.prompts) == ("map 0", ("fine",), None, None)
    assert (row.owner, len(row.id), row.digest) == (owner_of(ANN), 32, smap.digest())
    for field in ("title was", "recommended was", "prompts were"):
        assert f"map 0: Its {field} left out: " in said
    for half in ("\ud800", ["\ud800"], [1], 7, True, 1e999, {}):
        file = smap.save(tmp_path / "half.safetensors", dict.fromkeys(hostile, half))
        assert "left out" in work.take_in(ANN, [str(file)])[0]
    # A part that is no object at all costs what it says, and not the map.
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["lineas_library"] = "[" * 500
    changed = json.dumps(header).encode()
    file.write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + length :])
    said, *_ = work.take_in(ANN, [str(file)])
    assert "1 map is in" in said
    assert "what it says beside the map cannot be read" in said


def test_an_exported_file_lies_where_downloads_do_whatever_the_map_is_called(
    studio: Studio, writer: str
) -> None:
    smap = random_map({"layer": 4}, 0)
    studio.library.add_map(owner_of(ANN), replace(smap, info=replace(smap.info, name="../../x y")))
    [row] = studio.library.maps(owner_of(ANN), include_gallery=False)
    [file] = SharingCallbacks(studio, answers_of(studio)).export(ANN, [row.id])["value"]
    assert Path(file).parent.parent == studio.scratch.temporary
    assert Path(file).name == "x-y.safetensors"


def screen(painter: str, writer: str, state: Any, modality: str) -> list[Any]:
    state["state"]["modality"] = modality
    return [state, painter, "ab\nba", 3, writer, "ab", 4, 6]


@pytest.fixture
def shown(painter: str, writer: str, inks: list[str]) -> list[Any]:
    """A screen with two maps, one of them inverse, in the image tab."""
    state = rack((inks[0], 0.8), (inks[1], 0.2))
    state["state"]["rows"][1]["inverse"] = True
    return screen(painter, writer, state, "image")


def test_a_bundle_makes_the_same_picture_in_a_studio_that_is_new(
    studio: Studio, shown: list[Any], painter: str, tmp_path: Path
) -> None:
    (bundle,) = SharingCallbacks(studio, answers_of(studio)).bundle(ANN, *shown)["value"]
    before = ImageCallbacks(studio, answers_of(studio)).look(ANN, painter, shown[0], "ab\nba", 3)[0]
    other = Studio(Settings(home=tmp_path / "other"), environment={})
    try:
        said, news, model, prompts, seed, *texts = SharingCallbacks(
            other, answers_of(other)
        ).take_in(BOB, [bundle])
        assert "2 maps are in" in said
        assert (model, prompts, seed, news["ask"]) == (painter, "ab\nba", 3, True)
        assert texts == [gr.skip()] * 4
        again = ImageCallbacks(other, answers_of(other)).look(
            BOB, painter, {"state": news["state"]}, prompts, seed
        )[0]
        # The titles differ, for an inverse is a map of its own there; the pictures do not.
        assert pictures_in(again) == pictures_in(before)
        SharingCallbacks(other, answers_of(other)).take_in(BOB, [bundle])
        assert len(other.library.maps(owner_of(BOB), include_gallery=False)) == 2
    finally:
        other.close()


def pictures_in(html: str) -> list[str]:
    return [part.split('"')[0] for part in html.split('src="')[1:]]


def test_the_python_makes_what_the_screen_shows(
    studio: Studio, shown: list[Any], painter: str, tmp_path: Path
) -> None:
    code, files = SharingCallbacks(studio, answers_of(studio)).code(ANN, *shown)
    assert len(files["value"]) == 2
    folder = Path(files["value"][0]).parent
    run_here(code, folder)
    after = ImageCallbacks(studio, answers_of(studio)).look(ANN, painter, shown[0], "ab\nba", 3)[1][
        1
    ]
    saved = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]
    assert any(picture.resize(after.size) == after for picture in saved), [
        p.name for p in folder.iterdir()
    ]


def test_a_text_screen_makes_a_bundle_and_python(
    studio: Studio, painter: str, writer: str, words: str
) -> None:
    work, state = SharingCallbacks(studio, answers_of(studio)), rack((words, 0.8))
    on = screen(painter, writer, state, "text")
    (bundle,) = work.bundle(ANN, *on)["value"]
    read = read_bundle(bundle)
    mix = studio.mix(owner_of(ANN), RackState.from_page(state), writer)
    assert read.texts == (tuple(answers_of(studio).texts.whole_pair(mix, writer, "ab", 4, 6)),)
    _, news, *fields = work.take_in(ANN, [bundle])
    assert fields == [gr.skip(), gr.skip(), gr.skip(), writer, "ab", 4, 6]
    assert news["state"]["modality"] == "text"
    # The visitor has that map already.
    assert [row["id"] for row in news["state"]["rows"]] == [words]


def test_a_link_holds_the_screen(studio: Studio, shown: list[Any]) -> None:
    link = SharingCallbacks(studio, answers_of(studio)).link(ANN, *shown)
    restored = Screen.from_link(link.removeprefix("?scene="))
    assert restored.rack == RackState.from_page(shown[0])
    assert (restored.image_prompts, restored.image_seed, restored.tokens) == ("ab\nba", 3, 6)


def test_nobody_changes_or_takes_what_is_not_theirs(studio: Studio, inks: list[str]) -> None:
    answers = answers_of(studio)
    work, sharing = LibraryCallbacks(studio, answers), SharingCallbacks(studio, answers)
    for attempt in (
        lambda: work.rename(BOB, [inks[0]], "mine", ""),
        lambda: work.delete(BOB, [inks[0]], rack(), {}),
        lambda: work.add(BOB, [inks[0]], rack()),
        lambda: sharing.export(BOB, [inks[0]]),
        lambda: work.describe(BOB, [inks[0]]),
        lambda: HubCallbacks(studio, answers).push(BOB, [inks[0]], "a/b", "token"),
    ):
        with pytest.raises(gr.Error, match="no map"):
            attempt()
    assert inks[0] not in choices(work.listed(BOB, "", []))
    work.delete(ANN, [inks[0]], rack(), {})
    with pytest.raises(gr.Error, match="brought back"):
        work.undo(BOB, [inks[0]], rack(), {})


def test_what_cannot_be_taken_in_is_a_message(studio: Studio, tmp_path: Path) -> None:
    answers = answers_of(studio)
    work, sharing = LibraryCallbacks(studio, answers), SharingCallbacks(studio, answers)
    for name in ("junk.safetensors", "junk.zip"):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(gr.Error, match="junk|zip"):
            sharing.take_in(ANN, [str(tmp_path / name)])
    with pytest.raises(gr.Error, match="tick one"):
        work.delete(ANN, [], rack(), {})
