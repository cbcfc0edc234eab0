"""The library: maps found, named, deleted and brought back; what is taken out, and back in."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Download, Locator, Page, expect

import lineas_core as lc
from lineas_core.system.paths import checkout, packaged
from tests.browser.parts import (
    MARKS,
    Visitor,
    go_to,
    on_rack,
    pictures_of,
    slider,
    sources,
    switch,
    unfold,
)
from tests.helpers.app import Server
from tests.helpers.waiting import SECONDS

pytestmark = MARKS

GALLERY = packaged("gallery")
MIX = "Mine 0.90 + Watercolour 1.00"


@pytest.fixture
def library(page: Page) -> Page:
    """A page on the library tab, with the list of maps."""
    go_to(page, "Library")
    expect(listed(page).first).to_be_visible()
    return page


def listed(page: Page) -> Locator:
    return page.locator("#library-maps label")


def tick(page: Page, words: str) -> None:
    listed(page).filter(has_text=words).get_by_role("checkbox").check()


def change(page: Page, title: str, tags: str) -> None:
    page.get_by_label("Title").fill(title)
    page.get_by_label("Tags").fill(tags)
    page.locator("#library-rename").click()


def take_in(page: Page, file: Path) -> None:
    unfold(page, "library-import")
    page.locator("#library-files input[type=file]").set_input_files(file)
    expect(page.locator("#library-said")).to_contain_text(re.compile("maps? (is|are) in"))


def download_of(page: Page, files: str) -> list[Download]:
    """What the links of a list of files give."""
    links = page.locator(f"#{files} a.download-link")
    expect(links.first).to_be_visible()
    found = []
    for link in links.all():
        with page.expect_download() as download:
            link.click()
        found.append(download.value)
    return found


def compose(page: Page) -> list[str]:
    """Two maps on the rack, of which the visitor's own comes first, and two prompts."""
    pictures_of(page, "Mine 1.00")
    slider(page, "Mine").focus()
    page.keyboard.press("End")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    switch(page, "Watercolour").check()
    pictures_of(page, MIX)
    # The seed before the prompts: an answer still on its way may take what is typed by then, and
    # two pictures are to be those of this seed.
    page.locator("#image-seed input").fill("3")
    page.get_by_label("Prompts, one on a line").fill("a lighthouse\na teapot")
    page.locator("#show").click()
    shown = page.locator(f'#pictures [data-mix="{MIX}"] img')
    expect(shown).to_have_count(2)
    expect(page.locator("#pictures figcaption").first).to_contain_text("a lighthouse")
    return sources(shown)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_map_is_imported_found_named_tagged_and_exported(library: Page, tmp_path: Path) -> None:
    take_in(library, GALLERY / "emoji-blueprint.safetensors")
    expect(library.locator(".rack-name span").first).to_be_visible()
    mine = listed(library).filter(has_not_text="shipped")
    expect(mine).to_have_count(1)
    mine.get_by_role("checkbox").check()
    expect(library.locator("#library-card")).to_contain_text("emoji-onestep")
    change(library, "Mine", "night, blue ")
    expect(mine).to_contain_text(re.compile(r"^\s*Mine · .*#night #blue"))
    expect(library.locator(".rack-name span", has_text="Mine")).to_be_visible()

    library.get_by_label("Search").fill("blue")
    expect(listed(library)).to_have_count(2)
    library.get_by_label("Search").fill("mine")
    expect(listed(library)).to_have_count(1)

    library.locator("#library-export").click()
    (download,) = download_of(library, "library-exported")
    download.save_as(tmp_path / "mine.safetensors")
    shipped = lc.SteeringMap.load(GALLERY / "emoji-blueprint.safetensors")
    assert lc.SteeringMap.load(tmp_path / "mine.safetensors").digest() == shipped.digest()
    library.get_by_label("Search").fill("nothing like it")
    expect(listed(library)).to_have_count(0)


def test_what_is_deleted_is_brought_back(library: Page) -> None:
    count = listed(library).count()
    library.locator("#library-delete").click()
    expect(library.get_by_text("No map is chosen; tick one in the list first.")).to_be_visible()
    tick(library, "Mine")
    expect(library.get_by_label("Title")).to_have_value("Mine")
    library.locator("#library-delete").click()
    expect(listed(library)).to_have_count(count - 1)
    expect(listed(library).filter(has_text="Mine")).to_have_count(0)
    undo = library.get_by_role("button", name="Undo: bring Mine back")
    # In the place of the first map, which it was.
    expect(library.locator("#library-maps li").first).to_contain_text("Deleted Mine")
    assert "Mine" not in on_rack(library)
    undo.click()
    expect(listed(library).first).to_contain_text("Mine")
    expect(undo).to_have_count(0)
    expect(library.locator(".rack-name span").first).to_have_text("Mine")


def test_the_gallery_is_not_changed(library: Page) -> None:
    tick(library, "Pixel art")
    expect(library.get_by_label("Title")).to_have_value("Pixel art")
    library.locator("#library-delete").click()
    expect(library.locator(".toast-body.error")).to_be_visible()
    expect(listed(library).filter(has_text="Pixel art")).to_have_count(1)


def test_a_control_vector_comes_in_is_switched_on_and_goes_out(
    library: Page, tmp_path: Path
) -> None:
    shift = torch.linspace(-1, 1, 576)
    smap = lc.SteeringMap({"model.layers.5": lc.Affine(torch.ones(576), shift)}, lc.MapInfo())
    take_in(library, lc.to_gguf(smap, to=tmp_path / "Upwards.gguf"))
    expect(library.locator(".rack-name span").first).to_have_text("Upwards")
    tick(library, "Upwards")
    expect(library.locator("#library-card")).to_contain_text("smollm2")
    library.get_by_label("Export as").click()
    library.get_by_role("option", name="llama.cpp").click()
    library.locator("#library-export").click()
    (download,) = download_of(library, "library-exported")
    assert download.suggested_filename == "Upwards.gguf"
    download.save_as(tmp_path / "again.gguf")
    found = lc.import_map(tmp_path / "again.gguf").sites["model.layers.5"]
    assert torch.equal(found.shift, shift)

    library.get_by_label("Export as").click()
    library.get_by_role("option", name="ComfyUI").click()
    library.locator("#library-export").click()
    expect(library.locator(".toast-body.error")).to_contain_text("smollm2")


def test_the_snippet_runs_and_gives_the_picture_on_the_screen(page: Page, tmp_path: Path) -> None:
    shown = compose(page)
    go_to(page, "Library")
    unfold(page, "library-screen")
    page.locator("#snippet-button").click()
    for download in download_of(page, "snippet-maps"):
        download.save_as(tmp_path / download.suggested_filename)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    code = "\n".join(page.locator("#snippet .cm-line").all_inner_texts())
    environment = {**os.environ, "PYTHONPATH": str(checkout())}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for number, source in enumerate(shown, start=1):
        on_screen = pixels(base64.b64decode(source.partition(",")[2]))
        made = pixels((tmp_path / f"{number}-steered.png").read_bytes())
        assert made.shape == on_screen.shape
        # The last bit may differ: on the screen the untouched pictures are in the same batch.
        assert np.abs(made.astype(int) - on_screen.astype(int)).max() <= 1


def test_a_link_brings_prompts_maps_and_strengths_back(
    page: Page, visitor: Visitor, browser: Browser
) -> None:
    shown = compose(page)
    rack = on_rack(page)
    go_to(page, "Library")
    unfold(page, "library-screen")
    page.locator("#link-button").click()
    link = page.locator("#link textarea")
    expect(link).to_have_value(re.compile(r"^http.*\?scene="))
    assert page.url == link.input_value()

    context = browser.new_context(storage_state=visitor.context.storage_state())
    other = Visitor(context, visitor.url)
    again = other.open(page.url.rpartition("/")[2])
    expect(again.locator(f'#pictures [data-mix="{MIX}"] img')).to_have_count(2)
    assert sources(again.locator("#pictures img")) == shown
    assert on_rack(again) == rack
    expect(again.get_by_label("Prompts, one on a line")).to_have_value("a lighthouse\na teapot")
    expect(slider(again, "Mine")).to_have_value("0.9")
    expect(switch(again, "Pixel art")).not_to_be_checked()
    context.close()
    assert other.errors == []


def test_a_bundle_gives_the_same_picture_after_everything_is_wiped(
    page: Page, visitor: Visitor, server: Server, browser: Browser, tmp_path: Path
) -> None:
    shown = compose(page)
    go_to(page, "Library")
    unfold(page, "library-screen")
    page.locator("#bundle-button").click()
    (download,) = download_of(page, "bundle")
    download.save_as(tmp_path / "scene.zip")
    page.close()
    server.stop()
    server.wipe()
    server.start()

    context = browser.new_context(viewport={"width": 1440, "height": 900})
    other = Visitor(context, visitor.url)
    fresh = other.open()
    go_to(fresh, "Library")
    expect(listed(fresh).first).to_be_visible()
    expect(listed(fresh).filter(has_not_text="shipped")).to_have_count(0)
    take_in(fresh, tmp_path / "scene.zip")
    expect(listed(fresh).filter(has_text=re.compile("^ *Mine|Blueprint"))).not_to_have_count(0)
    go_to(fresh, "Images")
    expect(fresh.get_by_label("Prompts, one on a line")).to_have_value("a lighthouse\na teapot")
    pictures = fresh.locator("#pictures img")
    expect(pictures).to_have_count(2)
    expect(pictures.first).to_have_attribute("src", shown[0])
    assert sources(pictures) == shown
    context.close()
    assert other.errors == []
