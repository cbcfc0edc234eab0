"""A second visitor, who knows every id of the first one's, tries every function of the app.

The functions are taken from the page itself: one that is new, and not named here, fails the test.
What the intruder is told about the first visitor's ids must be what is told of ids that are not.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from types import GeneratorType
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from starlette.requests import Request

import lineas_core as lc
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.screen import Screen
from lineas_core.studio.web.page import build_page
from tests.helpers.studio import ANN, BOB, SITE, add_map, finished, rack

SECRET = "anns own words"
WORDS = {"model.layers.1.post_attention_layernorm": 16}
TABLE = [[f"a {n}", f"b {n}", ""] for n in range(4)]
# Functions that take nothing of anybody's: no key and no id, or ids that they look nothing up by.
HARMLESS = {
    "Api.new_visitor": "makes a key",
    "ImageCallbacks.surprise": "shipped prompts",
    "PromptCallbacks.mark": "the table that comes with the call",
    "UploadCallbacks.upload": "files that Gradio has checked; see test_server.py",
    "UploadCallbacks.paste": "the text that comes with the call",
    "UploadCallbacks.answer": "the file that comes with the call",
    "UploadCallbacks.clear": "nothing",
    "PromptCallbacks.save": "the table that comes with the call",
    "WritingCallbacks.write": "a concept",
    "PromptCallbacks.download": "the table that comes with the call",
    "PromptCallbacks.show_files": "nothing",
    "TrainingCallbacks.settings_of": "a method and a model's name",
    "TrainingCallbacks.models_of": "a kind of model",
    "shipped_fields": "a model's name and a method",
    "SiteCallbacks.reset": "a model's name",
    "SiteCallbacks.refresh": "a model's name and an expression, read in linear time",
    "SiteCallbacks.typed": "a model's name and an expression",
    "SiteCallbacks.described": "a model's name and an expression",
    "StyleCallbacks.show": "the concept and the table that come with the call",
    "StyleCallbacks.choose": "a name",
    "ChatCallbacks.undo": "the turns that come with the call",
    "ChatCallbacks.new": "nothing",
    "TextCallbacks.choose_mode": "a mode",
    "HubCallbacks.install": "a repository on the Hub",
    "HubCallbacks.search": "a model's name",
    "SharingCallbacks.take_in": "files that Gradio has checked; see test_server.py",
    "Examples.create.<locals>.load_example": "shipped openings",
}


@dataclass(frozen=True)
class Ids:
    """Of what a visitor has."""

    job: str
    writing: str
    painting: str
    deleted: str
    prompts: str
    deleted_prompts: str


GHOST = Ids(*(f"{n}" * 32 for n in "123456"))


@pytest.fixture
def anns(studio: Studio, writer: str, painter: str, prompts: lc.PromptSet) -> Ids:
    """A job, maps and prompt sets of Ann's."""
    owner = owner_of(ANN)
    own = lc.PromptSet(
        name="own", title=SECRET, source=[f"{SECRET} {n}" for n in range(4)], target=prompts.target
    )
    job = studio.jobs.start(owner, writer, own, {"steps": 2}, title=SECRET)
    finished(studio, job.id, owner)
    maps = [add_map(studio, writer, WORDS, seed, concept=SECRET) for seed in (0, 1)]
    maps.insert(1, add_map(studio, painter, {SITE: 16}, 2, concept=SECRET))
    sets = [studio.library.add_prompts(owner, own).id for _ in range(2)]
    studio.library.delete(maps[2], owner)
    studio.library.delete_prompts(sets[1], owner)
    return Ids(job.id, *maps, *sets)


def attacks(ids: Ids, writer: str, painter: str) -> dict[str, list[tuple[Any, ...]]]:
    """Function -> calls by Bob, with ids that are not his."""
    seen = {"job": ids.job, "seq": -1, "running": True}
    on = rack((ids.writing, 1.0), modality="text")
    drawn = rack((ids.painting, 1.0), modality="image")
    screen = [painter, "a tiger", 0, writer, "ab", 0, 3]
    turn = {"question": "ab", "untouched": "a", "steered": "b", "maps": ""}
    maps = [ids.writing, ids.painting, ids.deleted]
    return {
        "Api.list_maps": [(BOB, SECRET), (BOB, ids.writing), (BOB,)],
        "Api.list_prompt_sets": [(BOB, "text"), (BOB, "image")],
        "Api.train": [(BOB, writer, ids.prompts), (BOB, writer, ids.deleted_prompts)],
        "Api.job": [(BOB, ids.job)],
        "Api.cancel": [(BOB, ids.job)],
        "Api.complete": [(BOB, "ab", [m], [1.0], writer, 0, 3) for m in maps],
        "Api.picture": [(BOB, ["ab"], [m], [1.0], painter) for m in maps],
        "Opening.arrive": [(BOB, ids.job), (BOB, ids.writing)],
        "ImageCallbacks.look": [(BOB, painter, drawn, "ab", 0)],
        "ImageCallbacks.effects": [(BOB, painter, drawn, "ab")],
        "ImageCallbacks.grid": [(BOB, painter, drawn, "ab", 0)],
        "ImageCallbacks.crossed": [(BOB, painter, drawn, "ab", 0)],
        "TextCallbacks.compare": [(BOB, writer, on, "ab", 0, 3)],
        "TextCallbacks.sweep": [(BOB, writer, on, "ab", 0, 3, 1)],
        "TextCallbacks.words": [(BOB, writer, on, "")],
        "ChatCallbacks.ask": [(BOB, writer, on, [], "ab", 0, 3)],
        "ChatCallbacks.again": [(BOB, writer, on, [turn], "", 0, 3)],
        "PromptCallbacks.choose": [(BOB, ids.prompts), (BOB, ids.deleted_prompts)],
        "PromptCallbacks.delete": [(BOB, "text", ids.prompts), (BOB, "text", ids.deleted_prompts)],
        "PromptCallbacks.undelete": [
            (BOB, "text", ids.deleted_prompts),
            (BOB, "text", ids.prompts),
        ],
        "TrainingCallbacks.start": [
            (BOB, "text", writer, ids.prompts, "x", [["", "", ""]], "ab", 2, None, None)
        ],
        "TrainingCallbacks.cancel": [(BOB, seen)],
        "TrainingCallbacks.retry": [(BOB, seen)],
        "TrainingCallbacks.poll": [(BOB, seen)],
        "TrainingCallbacks.open": [(BOB, ids.job)],
        "TrainingCallbacks.film": [(BOB, seen)],
        "TrainingCallbacks.keep": [(BOB, seen)],
        "StageCallbacks.open": [(BOB, seen, "")],
        "StageCallbacks.draw": [(BOB, ids.job, 0.5)],
        "StageCallbacks.prompts": [(BOB, seen)],
        "TrainingCallbacks.curves": [(BOB, seen)],
        "PromptCallbacks.list_for_kind": [(BOB, "text", ids.prompts)],
        "PromptCallbacks.list_for_model": [(BOB, "text", writer, ids.prompts)],
        "CompareCallbacks.open": [(BOB, m, ids.writing) for m in maps],
        "CompareCallbacks.relist": [(BOB, m, ids.writing) for m in maps],
        "CompareCallbacks.sets": [(BOB, "text")],
        "CompareCallbacks.show": [(BOB, m, ids.writing, 1.0, "ab", "ab", 0) for m in maps],
        "CompareCallbacks.train": [(BOB, writer, ids.prompts, "lineas", "mean-act")],
        "CompareCallbacks.poll": [(BOB, [ids.job])],
        "CompareCallbacks.cancel": [(BOB, [ids.job])],
        "CompareCallbacks.table": [(BOB, m, ids.writing) for m in maps],
        "CompareCallbacks.take": [(BOB, [m], on) for m in maps],
        "UnderstandCallbacks.choices": [(BOB, ids.writing, ids.painting)],
        "UnderstandCallbacks.show": [(BOB, m) for m in maps],
        "UnderstandCallbacks.compare": [(BOB, m, ids.writing) for m in maps],
        "UnderstandCallbacks.table": [(BOB, m, "neurons") for m in maps],
        "PinCallbacks.again": [
            (
                BOB,
                {
                    "scene": {
                        "rack": {"rows": [{"id": m, "on": False}]},
                        "model": painter,
                        "prompts": "ab",
                        "seed": 0,
                    }
                },
            )
            for m in maps
        ],
        "LibraryCallbacks.listed": [(BOB, SECRET, maps), (BOB, "", maps)],
        "LibraryCallbacks.ticked": [(BOB, {"chosen": [m]}) for m in maps],
        "LibraryCallbacks.describe": [(BOB, [m]) for m in maps],
        "LibraryCallbacks.rename": [(BOB, [m], "taken", "tag") for m in maps],
        "LibraryCallbacks.glances": [(BOB,)],
        "LibraryCallbacks.add": [(BOB, [m], on) for m in maps],
        "LibraryCallbacks.delete": [(BOB, [m], on, {}) for m in maps],
        "LibraryCallbacks.undo": [(BOB, [m], on, {}) for m in maps],
        "SharingCallbacks.export": [(BOB, [m]) for m in maps],
        "HubCallbacks.push": [(BOB, [m], "bob/taken", "hf_token") for m in maps],
        "SharingCallbacks.code": [(BOB, on, *screen), (BOB, drawn, *screen)],
        "SharingCallbacks.bundle": [(BOB, on, *screen), (BOB, drawn, *screen)],
        "SharingCallbacks.link": [(BOB, on, *screen), (BOB, drawn, *screen)],
    }


def functions_of(page: gr.Blocks) -> dict[str, list[Any]]:
    """Qualified name -> the functions that the app's server runs under it."""
    found: dict[str, list[Any]] = {}
    for block in page.fns.values():
        if block.fn is not None:
            found.setdefault(block.fn.__qualname__, []).append(block.fn)
    return found


@pytest.fixture
def functions(studio: Studio) -> dict[str, list[Any]]:
    return functions_of(build_page(studio))


def answer(function: Any, arguments: tuple[Any, ...]) -> str:
    """What the caller is told, in a form that can be compared."""
    name = function.__qualname__
    if name == "Opening.arrive":
        scope = {"type": "http", "headers": [], "query_string": f"job={arguments[1]}".encode()}
        arguments = (arguments[0], "", gr.Request(request=Request(scope)))
    try:
        found = function(*arguments)
        # How far a text is at each look is chance.
        return shown(list(found)[-1:] if isinstance(found, GeneratorType) else found)
    except gr.Error as error:
        message = str(error.message)
    assert "Something unexpected" not in message, f"{name}{arguments}"
    return f"refused: {message}"


def shown(value: Any) -> str:
    """Every part of an answer as text."""
    if isinstance(value, Image.Image):
        return hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, dict):
        # How fast it was made is no part of it, and each update has a name of its own.
        parts = {k: shown(v) for k, v in value.items() if k not in ("live", "__type__")}
        return json.dumps(parts)
    if isinstance(value, list | tuple):
        return json.dumps([shown(part) for part in value])
    if isinstance(value, gr.blocks.Block):
        return f"{type(value).__name__} {shown(value.constructor_args)}"
    if isinstance(value, str) and value.startswith("?scene="):
        return str(Screen.from_link(value.removeprefix("?scene=")))
    if hasattr(value, "to_json"):
        return str(value.to_json())
    return without_paths(str(value))


def property_of(studio: Studio, key: str) -> str:
    """All that somebody has, down to the bytes of the files."""
    owner = owner_of(key)
    rows = [studio.store.map(map_id) for map_id in sorted(studio.store.map_ids())]
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((studio.settings.home / "maps").glob("*"))
        if any(row and row.id == path.stem and row.owner == owner for row in rows)
    }
    return json.dumps(
        [
            [asdict(row) for row in rows if row is not None and row.owner == owner],
            [asdict(row) for row in studio.library.prompt_sets(owner)],
            [asdict(job) for job in studio.jobs.recent(owner)],
            files,
        ],
        default=str,
    )


def test_every_function_of_the_app_is_attacked_or_known_to_be_harmless(
    functions: dict[str, list[Any]],
) -> None:
    assert set(functions) == set(attacks(GHOST, "", "")) | set(HARMLESS)


def test_an_intruder_gets_nothing_changes_nothing_and_learns_nothing(
    studio: Studio,
    functions: dict[str, list[Any]],
    anns: Ids,
    writer: str,
    painter: str,
) -> None:
    before = property_of(studio, ANN)
    real, made_up = attacks(anns, writer, painter), attacks(GHOST, writer, painter)
    names = dict(zip(asdict(anns).values(), asdict(GHOST).values(), strict=True))
    for name, calls in real.items():
        for own, ghost in zip(calls, made_up[name], strict=True):
            told = answer(functions[name][0], own)
            for mine, other in names.items():
                told = told.replace(mine, other)
            wanted = answer(functions[name][0], ghost)
            assert SECRET not in told.replace(f'"{SECRET}"', ""), name
            assert same(told) == same(wanted), f"{name} tells real ids from made-up ones"
    assert property_of(studio, ANN) == before


def same(told: str) -> str:
    """Without what differs between any two calls: the ids of what the intruder himself made."""
    return re.sub(r"\b[0-9a-f]{32}\b", "ID", re.sub(r"\b\d\d:\d\d\b", "TIME", told))


def test_the_sets_that_a_list_offers_are_the_intruders_own(
    functions: dict[str, list[Any]], anns: Ids, writer: str
) -> None:
    for name, fields in {"list_for_kind": (None,), "list_for_model": (writer, None)}.items():
        [function] = functions[f"PromptCallbacks.{name}"]
        assert anns.prompts not in shown(function(BOB, "text", *fields))
        assert anns.prompts in shown(function(ANN, "text", *fields))


def test_no_function_works_for_what_is_no_key(
    functions: dict[str, list[Any]], anns: Ids, writer: str, painter: str
) -> None:
    others = {
        "WritingCallbacks.write": [(BOB, "text", "x", 0, writer)],
        "PromptCallbacks.save": [(BOB, "text", "mine", "x", TABLE)],
        "HubCallbacks.install": [(BOB, "someone/map", "")],
        "HubCallbacks.search": [(BOB, "smollm2", "")],
        "SharingCallbacks.take_in": [(BOB, [])],
    }
    for name, [call, *_] in {**attacks(anns, writer, painter), **others}.items():
        if name == "Opening.arrive":
            continue
        for key in ("", "short", "x" * 200, f"../../../etc/passwd{'a' * 20}"):
            told = answer(functions[name][0], (key, *call[1:]))
            assert told.startswith("refused: visitor is"), name


def test_the_gallery_is_read_only(
    studio: Studio, functions: dict[str, list[Any]], tmp_path: Path
) -> None:
    shipped = next(row.id for row in studio.library.maps(owner_of(BOB)))
    file = studio.library.file(shipped, owner_of(BOB))
    before = file.read_bytes()
    for name, rest in {"rename": ("taken", ""), "delete": ({}, {}), "undo": ({}, {})}.items():
        told = answer(functions[f"LibraryCallbacks.{name}"][0], (BOB, [shipped], *rest))
        assert "ships with the app" in told, name
    [copy] = functions["SharingCallbacks.export"][0](BOB, [shipped])["value"]
    Path(copy).write_bytes(b"changed")
    assert file.read_bytes() == before


def test_ids_cannot_be_guessed(anns: Ids) -> None:
    for name, value in asdict(anns).items():
        assert re.fullmatch(r"[0-9a-f]{32}", value), name
    assert len(set(asdict(anns).values())) == 6


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may reach the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
