"""The tabs that steer: pictures and texts under the rack's sliders."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from lineas_core.maps.calibration import Calibration
from lineas_core.studio.storage.gallery import load_gallery
from lineas_core.system.paths import packaged
from tests.browser.parts import (
    MARKS,
    go_to,
    on_rack,
    pictures_of,
    row_of,
    same_pictures,
    slider,
    sources,
    switch,
)

pytestmark = MARKS

ALONE, OTHER = "Pixel art 1.00", "Watercolour 1.00"


# Which share of the way a shipped map has gone at each strength.
EVEN = Calibration(load_gallery(packaged("gallery"))["emoji-pixel-art"].calibration)


def test_the_number_and_the_recommended_mark_set_the_strength(page: Page) -> None:
    full = pictures_of(page, ALONE)
    number = row_of(page, "Pixel art").get_by_role("spinbutton")
    number.fill("0.5")
    number.press("Enter")
    half = pictures_of(page, "Pixel art 0.50")
    assert all(a != b for a, b in zip(full, half, strict=True))
    assert float(slider(page, "Pixel art").input_value()) == pytest.approx(
        EVEN.share(0.5), abs=0.006
    )
    page.get_by_role("button", name="Recommended strength of Pixel art").click()
    assert pictures_of(page, ALONE) == full


def test_toggle_solo_and_reset(page: Page) -> None:
    full = pictures_of(page, ALONE)
    switch(page, "Pixel art").click()
    untouched = pictures_of(page, "no map is on")
    assert all(a != b for a, b in zip(full, untouched, strict=True))
    expect(page.locator("#pictures .ls-scores", has_text="CLIP not scored")).to_have_count(4)
    switch(page, "Pixel art").click()
    assert pictures_of(page, ALONE) == full

    solo = page.get_by_role("button", name="Solo: Watercolour")
    solo.click()
    expect(solo).to_have_attribute("aria-pressed", "true")
    assert set(pictures_of(page, OTHER)).isdisjoint(full)
    solo.click()
    assert pictures_of(page, ALONE) == full

    slider(page, "Pixel art").focus()
    page.keyboard.press("Home")
    pictures_of(page, "Pixel art 0.00")
    page.get_by_role("button", name="Reset", exact=True).click()
    assert pictures_of(page, ALONE) == full


def test_beyond_the_map_and_against_it(page: Page) -> None:
    full = pictures_of(page, ALONE)
    page.get_by_label("Beyond 0 to 1").check()
    expect(slider(page, "Pixel art")).to_have_attribute("max", "2")
    slider(page, "Pixel art").focus()
    page.keyboard.press("End")
    twice = pictures_of(page, "Pixel art 2.00")
    page.keyboard.press("Home")
    against = pictures_of(page, "Pixel art -1.00")
    row_of(page, "Pixel art").get_by_role("spinbutton").fill("1")
    row_of(page, "Pixel art").get_by_role("spinbutton").press("Enter")
    assert pictures_of(page, ALONE) == full
    page.get_by_role("button", name="Inverse map: Pixel art").click()
    pictures = page.locator("#pictures img")
    expect(pictures.first).not_to_have_attribute("src", full[0])
    inverse = sources(pictures)
    assert len({full[0], twice[0], against[0], inverse[0]}) == 4

    page.get_by_label("Beyond 0 to 1").uncheck()
    expect(pictures.first).to_have_attribute("src", full[0])
    assert sources(pictures) == full
    expect(page.get_by_role("button", name="Inverse map: Pixel art")).to_have_count(0)


def test_two_maps_are_composed_in_their_order(page: Page) -> None:
    first = pictures_of(page, ALONE)
    page.get_by_role("button", name="Solo: Watercolour").click()
    second = pictures_of(page, OTHER)
    page.get_by_role("button", name="Solo: Watercolour").click()
    pictures_of(page, ALONE)
    expect(page.locator(".rack-effect")).to_have_count(0)

    switch(page, "Watercolour").click()
    both = pictures_of(page, f"{ALONE} + {OTHER}")
    assert len({first[0], second[0], both[0]}) == 3
    expect(page.locator(".rack-effect")).to_have_count(2)
    expect(page.locator(".rack-effect").first).to_have_text(
        re.compile(r"Beside the others .+ \(-?\d+\s% of its effect\)")
    )
    scores = page.locator("#pictures .ls-scores").first
    expect(scores).to_contain_text("pixel art")
    expect(scores).to_contain_text("watercolor")

    assert on_rack(page)[:2] == ["Pixel art", "Watercolour"]
    page.get_by_role("button", name="Later: Pixel art").click()
    assert on_rack(page)[:2] == ["Watercolour", "Pixel art"]
    swapped = pictures_of(page, f"{OTHER} + {ALONE}")
    assert all(a != b for a, b in zip(both, swapped, strict=True))
    page.get_by_role("button", name="Earlier: Pixel art").click()
    assert pictures_of(page, f"{ALONE} + {OTHER}") == both


def test_maps_come_on_the_rack_and_go_and_are_dragged(page: Page) -> None:
    pictures_of(page, ALONE)
    page.get_by_label("Add a map to the rack").select_option(label="Blueprint")
    alone_first = on_rack(page)
    assert alone_first[-1] == "Blueprint"
    expect(page.locator('#pictures [data-mix*="Blueprint"]')).to_have_count(4)
    grip = row_of(page, "Blueprint").locator(".rack-grip")
    # A drop counts only where a move over the row has been seen, and the first may begin the drag.
    grip.drag_to(row_of(page, "Pixel art"), steps=8)
    expect(page.locator(".rack-name span").first).to_have_text("Blueprint")
    expect(page.locator('#pictures [data-mix^="Blueprint"]')).to_have_count(4)
    page.get_by_role("button", name="Take off the rack: Blueprint").click()
    pictures_of(page, ALONE)
    assert on_rack(page) == [title for title in alone_first if title != "Blueprint"]


def test_a_grid_over_strengths_with_its_scores_and_files(page: Page) -> None:
    full = pictures_of(page, ALONE)
    page.locator("#grid").click()
    expect(page.locator("#picture-grid td img")).to_have_count(4 * 7)
    expect(page.locator("#picture-grid td .ls-scores")).to_have_count(4 * 7)
    expect(page.locator("#picture-grid td .ls-scores", has_text="not scored")).to_have_count(0)
    assert same_pictures(sources(page.locator("#picture-grid td:last-child img")), full)
    untouched = page.locator("#picture-grid td:nth-child(2) .ls-scores")
    expect(untouched.filter(has_text="IMG 1.00")).to_have_count(4)
    expect(page.locator("#curves .js-plotly-plot")).to_be_visible()
    for label, head in (("Picture (PNG)", b"\x89PNG"), ("Recipe (JSON)", b"{"), ("Film", b"GIF8")):
        with page.expect_download() as download:
            page.get_by_text(label).click()
        assert download.value.path().read_bytes().startswith(head)


def test_a_grid_of_two_maps(page: Page) -> None:
    full = pictures_of(page, ALONE)
    page.locator("#crossed").click()
    expect(page.get_by_text("Two maps make this grid.")).to_be_visible()
    switch(page, "Watercolour").click()
    both = pictures_of(page, f"{ALONE} + {OTHER}")
    page.locator("#crossed").click()
    cells = page.locator("#picture-grid tbody tr")
    expect(page.locator("#picture-grid td img")).to_have_count(5 * 5)
    assert same_pictures(sources(cells.first.locator("td:last-child img")), full[:1])
    assert same_pictures(sources(cells.last.locator("td:last-child img")), both[:1])
    assert not same_pictures(full[:1], both[:1])
    expect(page.locator("#picture-grid td .ls-scores")).to_have_count(5 * 5)


def test_an_empty_prompt_is_a_message_and_nothing_is_lost(page: Page) -> None:
    full = pictures_of(page, ALONE)
    prompts = page.get_by_label("Prompts, one on a line")
    prompts.fill("")
    page.locator("#show").click()
    expect(page.get_by_text("There is no prompt; write one on a line")).to_be_visible()
    assert pictures_of(page, ALONE) == full
    page.locator("#surprise").click()
    expect(prompts).not_to_have_value("")
    expect(page.locator("#pictures img").first).to_be_visible()


def test_a_table_over_strengths(page: Page) -> None:
    go_to(page, "Text")
    page.locator("#tokens input").fill("12")
    page.get_by_label("Samples").fill("2")
    page.locator("#sweep").click()
    expect(page.locator("#row thead th")).to_have_text(
        ["strength", "0", "0.25", "0.5", "0.75", "1"]
    )
    texts = page.locator("#row .ls-text").all_inner_texts()
    assert len(texts) == 2 * 5
    assert all(text.strip() for text in texts)
    assert texts[0] != texts[4]
    assert texts[0] != texts[5]
    expect(page.locator("#row .ls-readout")).to_have_count(5)


def test_an_empty_opening_is_a_message(page: Page) -> None:
    go_to(page, "Text")
    # What the tab asks by itself has been answered: the message is the click's.
    expect(page.locator("#pair [data-drawn]")).to_be_visible()
    expect(page.locator("#pair .ls-caret")).to_have_count(0)
    page.locator("#prompt textarea").fill("")
    page.locator("#compare").click()
    expect(page.get_by_text("The prompt is empty; write at least one word.")).to_be_visible()
