"""The page shows what is on: whatever changes the rack, what is drawn is drawn from it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

import lineas_core as lc
from lineas_core.studio.answers.prompts import Modality
from lineas_core.studio.jobs.queue import shipped_settings
from lineas_core.studio.rack.screen import Screen
from lineas_core.system.paths import packaged
from tests.browser.parts import (
    MARKS,
    Visitor,
    decoded,
    go_to,
    on_rack,
    put_on_rack,
    row_of,
    sources,
    switch,
    unfold,
    upload_a_few,
)
from tests.helpers.app import Server
from tests.helpers.waiting import wait_for

pytestmark = MARKS

GALLERY = packaged("gallery")
TOKENS = 12


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Those of the page, loaded by the library."""
    return {name: lc.load_model(name, device="cpu") for name in ("emoji-onestep", "smollm2")}


@pytest.fixture(scope="module")
def library(server: Server) -> Any:
    """Title -> the map of that title, out of the files of the app."""

    def find(title: str) -> lc.SteeringMap:
        base = sqlite3.connect(f"file:{server.home / 'studio.db'}?mode=ro", uri=True)
        found = base.execute(
            "select id, owner from maps where title = ? order by created desc", (title,)
        ).fetchone()
        base.close()
        own = server.home / "maps" / f"{found[0]}.safetensors" if found else None
        if own is not None and own.exists():
            return lc.SteeringMap.load(own)
        for entry in json.loads((GALLERY / "index.json").read_text()):
            if entry["title"] == title:
                return lc.SteeringMap.load(GALLERY / f"{entry['id']}.safetensors")
        raise AssertionError(f"no map {title!r}")

    return find


def rack_shown(page: Page) -> list[tuple[str, float]]:
    """Titles and strengths of the rows that are on, as a person reads them."""
    return [
        (
            row.locator(".rack-name span").inner_text(),
            float(row.get_by_role("spinbutton").input_value()),
        )
        for row in page.locator(".rack-row:not(.rack-off)").all()
    ]


def expect_pictures(page: Page, models: dict[str, Any], library: Any) -> None:
    """The pictures come to be those that the library gives for the rack shown."""
    prompts = page.get_by_label("Prompts, one on a line").input_value().splitlines()
    seed = int(page.locator("#image-seed input").input_value())
    steer = [(library(title), strength) for title, strength in rack_shown(page)]
    wanted = [
        decoded(image) for image in models["emoji-onestep"].generate(prompts, steer, seed=seed)
    ]

    def shown() -> bool:
        found = [decoded(source) for source in sources(page.locator("#pictures img"))]
        return len(found) == len(wanted) and all(
            abs(a - b).max() <= 1 for a, b in zip(found, wanted, strict=True)
        )

    wait_for(shown)


def expect_texts(page: Page, models: dict[str, Any], library: Any) -> None:
    """The texts come to be those that the library gives for the rack shown."""
    prompt = page.locator("#prompt textarea").input_value()
    seed = int(page.locator("#text-seed input").input_value())
    tokens = int(page.locator("#tokens input").input_value())
    # In one batch with the untouched one, as on the page.
    steer = [
        (library(title), torch.tensor([0.0, strength])) for title, strength in rack_shown(page)
    ]
    wanted = models["smollm2"].generate([prompt] * 2, steer, seed=seed, max_new_tokens=tokens)
    texts = page.locator("#pair .ls-text")

    def shown() -> bool:
        done = page.locator("#pair .ls-caret").count() == 0
        return done and texts.evaluate_all("all => all.map(one => one.textContent)") == wanted

    wait_for(shown)


def train(page: Page, kind: Modality, name: str, steps: int) -> None:
    """Start a training on a few prompts, under a name."""
    go_to(page, "Train")
    expect(page.get_by_test_id("cell-0-0")).to_have_text("a tiger")
    if kind == "text":
        page.get_by_role("radio", name="Text").check()
        expect(page.locator("#set-concept textarea")).to_have_value("football")
    upload_a_few(page, kind)
    page.locator("#set-name textarea").fill(name)
    unfold(page, "settings")
    # The fields are emptied when another model has been chosen.
    suits = shipped_settings("smollm2" if kind == "text" else "emoji-onestep", "lineas")
    expect(page.locator("#rate input")).to_have_attribute("placeholder", f"{suits['rate']:g}")
    page.get_by_label("Steps").fill(str(steps))
    page.locator("#train").click()
    expect(page.locator("#cancel")).to_be_enabled()


@pytest.mark.parametrize("opened", ["before", "after"])
def test_after_training_the_pictures_are_those_of_the_new_map(
    page: Page, models: dict[str, Any], library: Any, opened: str
) -> None:
    name = f"Fresh {opened}"
    train(page, "image", name, 3)
    if opened == "before":
        go_to(page, "Images")
    expect(page.locator(".rack-name span").first).to_have_text(name)
    if opened == "after":
        go_to(page, "Images")
    assert rack_shown(page)[0][0] == name
    expect_pictures(page, models, library)


@pytest.mark.parametrize("opened", ["before", "after"])
def test_after_training_the_texts_are_those_of_the_new_map(
    page: Page, models: dict[str, Any], library: Any, opened: str
) -> None:
    go_to(page, "Text")
    page.locator("#tokens input").fill(str(TOKENS))
    name = f"Goals {opened}"
    train(page, "text", name, 2)
    if opened == "before":
        go_to(page, "Text")
    else:
        expect(page.locator(".rack-name span").first).to_have_text(name)
        go_to(page, "Text")
    expect(page.locator(".rack-name span").first).to_have_text(name)
    assert rack_shown(page)[0][0] == name
    expect_texts(page, models, library)


def test_cancel_undo_and_import_are_followed(
    page: Page, models: dict[str, Any], library: Any, tmp_path: Path
) -> None:
    train(page, "image", "Cut short", 400)
    expect(page.locator("#progress")).to_have_text(re.compile(r"Step [1-9]\d* of 400"))
    page.locator("#cancel").click()
    expect(page.locator("#progress [data-status=cancelled]")).to_be_visible()
    go_to(page, "Images")
    expect_pictures(page, models, library)

    # A grid says when it is of other strengths, and is made anew.
    page.get_by_label("Prompts, one on a line").fill("a lighthouse")
    page.locator("#show").click()
    expect_pictures(page, models, library)
    page.locator("#grid").click()
    cells = page.locator("#picture-grid td img")
    expect(cells).to_have_count(7)
    expect(page.locator("#picture-grid .ls-stale")).to_be_hidden()
    put_on_rack(page, "Watercolour")
    expect(page.locator("#picture-grid .ls-stale")).to_contain_text("other maps")
    page.locator("#picture-grid .ls-again").click()
    expect(page.locator("#picture-grid .ls-stale")).to_be_hidden()
    expect_pictures(page, models, library)

    go_to(page, "Library")
    unfold(page, "library-import")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((GALLERY / "emoji-blueprint.safetensors").read_bytes())
    page.locator("#library-files input[type=file]").set_input_files(copy)
    expect(page.locator("#library-said")).to_contain_text("in")
    go_to(page, "Images")
    expect_pictures(page, models, library)

    mine = rack_shown(page)
    assert len(mine) == 1
    go_to(page, "Library")
    own = page.locator("#library-maps label").filter(has_not_text="shipped").first
    own.get_by_role("checkbox").check()
    expect(page.locator("#library-card dd").first).to_be_visible()
    page.locator("#library-delete").click()
    undo = page.locator("#library-maps").get_by_role("button", name="Undo")
    expect(undo).to_be_visible()
    go_to(page, "Images")
    assert rack_shown(page) == []
    expect_pictures(page, models, library)
    go_to(page, "Library")
    undo.click()
    expect(undo).to_have_count(0)
    go_to(page, "Images")
    assert rack_shown(page) == mine
    expect_pictures(page, models, library)


@pytest.fixture
def stranger(browser: Browser, server: Server) -> Iterator[Visitor]:
    """Somebody who has none of the maps that others have made."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    stranger = Visitor(context, server.url)
    yield stranger
    context.close()
    assert stranger.errors == []


def test_a_reload_brings_all_back_and_a_link_what_a_stranger_has(
    visitor: Visitor, page: Page, stranger: Visitor, models: dict[str, Any], library: Any
) -> None:
    train(page, "image", "Private & mine", 2)
    expect(page.locator(".rack-name span").first).to_have_text("Private & mine")
    go_to(page, "Images")
    put_on_rack(page, "Watercolour")
    while on_rack(page).index("Watercolour") > 0:
        page.get_by_role("button", name="Earlier: Watercolour").click()
    # A handle gives strengths between those that the number shows.
    number = row_of(page, "Watercolour").get_by_role("spinbutton")
    number.fill("0.98")
    number.press("Enter")
    page.locator("#image-seed input").fill("5")
    page.get_by_label("Prompts, one on a line").fill("a lighthouse\na teapot")
    page.locator("#show").click()
    expect_pictures(page, models, library)
    before = (on_rack(page), rack_shown(page), sources(page.locator("#pictures img")))
    visitor.reload(page)
    expect(page.get_by_label("Prompts, one on a line")).to_have_value("a lighthouse\na teapot")
    expect(page.locator("#image-seed input")).to_have_value("5")
    expect(page.get_by_role("tab", name="Images")).to_have_attribute("aria-selected", "true")
    expect_pictures(page, models, library)
    after = (on_rack(page), rack_shown(page), sources(page.locator("#pictures img")))
    assert after == before

    go_to(page, "Library")
    unfold(page, "library-screen")
    page.locator("#link-button").click()
    link = page.locator("#link textarea")
    expect(link).to_have_value(re.compile(r"^http.*\?scene="))
    code = link.input_value().partition("?scene=")[2]
    assert "Private & mine" in Screen.from_link(code).titles.values()
    other = stranger.open(f"?scene={code}")
    told = other.locator(".toast-body", has_text="You do not have “Private & mine”")
    expect(told).to_be_visible()
    expect(other.get_by_label("Prompts, one on a line")).to_have_value("a lighthouse\na teapot")
    expect(row_of(other, "Private & mine")).to_have_count(0)
    expect_pictures(other, models, library)
    assert rack_shown(other) == [("Watercolour", pytest.approx(0.98))]
    other.close()

    other = stranger.open()
    other.evaluate("sessionStorage.setItem('lineas-session', '{\"rack\": 3')")
    stranger.reload(other)
    expect(switch(other, "Pixel art")).to_be_checked()
    expect_pictures(other, models, library)
