"""Phones, keyboards, screen readers, the tour, and what the console says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.parts import (
    MARKS,
    TABS,
    Visitor,
    go_to,
    pictures_of,
    row_of,
    serious,
    slider,
    switch,
    unfold,
)
from tests.helpers.app import Server
from tests.helpers.waiting import wait_for

pytestmark = MARKS

PHONE = 390


def fill(page: Page, tab: str) -> None:
    """Open a tab, and everything in it, with something in it."""
    go_to(page, tab)
    if tab == "Images":
        switch(page, "Watercolour").check()
        expect(page.locator(".rack-effect")).to_have_count(2)
        page.locator("#crossed").click()
        expect(page.locator("#picture-grid td img")).to_have_count(25)
        expect(page.locator("#curves .js-plotly-plot")).to_be_visible()
    elif tab == "Text":
        page.locator("#tokens input").fill("8")
        page.get_by_label("Samples").fill("1")
        page.locator("#compare").click()
        expect(page.locator("#pair .ls-readout b")).to_have_count(6)
        page.locator("#sweep").click()
        expect(page.locator("#row td .ls-readout")).to_have_count(5)
    elif tab == "Train":
        expect(page.get_by_test_id("cell-0-0")).to_have_text("a tiger")
        for accordion in ("writer", "uploads", "settings"):
            unfold(page, accordion)
        page.locator("#download-set").click()
        expect(page.locator("#set-files a.download-link")).to_have_count(2)
    elif tab == "Compare":
        expect(page.locator("#versus-figures td").first).to_be_visible()
        page.locator("#versus-show").click()
        expect(page.locator("#beside td img")).to_have_count(9)
    elif tab == "Understand":
        expect(page.locator("#understand-health strong")).to_be_visible()
        for plot in ("support", "spread", "delta"):
            expect(page.locator(f"#{plot}-plot .js-plotly-plot")).to_be_visible()
        expect(page.locator("#neurons td").first).to_be_visible()
    else:
        page.locator("#library-maps input").first.check()
        expect(page.locator("#library-card dd").first).to_be_visible()
        for accordion in ("library-import", "library-screen", "library-hub"):
            unfold(page, accordion)
        page.locator("#snippet-button").click()
        expect(page.locator("#snippet .cm-line").nth(3)).to_be_visible()
        page.locator("#link-button").click()
        expect(page.locator("#link textarea")).not_to_have_value("")


def test_axe_finds_nothing_serious_on_any_tab(visitor: Visitor) -> None:
    page = visitor.open("?__theme=light")
    for tab in TABS:
        fill(page, tab)
        assert serious(page) == [], f"{tab}, light"
        # Filling takes most of the time, so what it has given is looked at in both themes.
        with darkened(page):
            assert tab == "Library" or serious(page) == [], f"{tab}, dark"
    page.close()
    # The view of code takes the theme that the page is loaded with.
    page = visitor.open("?__theme=dark")
    fill(page, "Library")
    assert serious(page) == []
    page.close()


@contextmanager
def darkened(page: Page) -> Iterator[None]:
    page.evaluate("document.body.classList.add('dark')")
    yield
    page.evaluate("document.body.classList.remove('dark')")


@pytest.fixture
def newcomer(browser: Browser, server: Server) -> Iterator[Visitor]:
    """Somebody who has not been here before."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    newcomer = Visitor(context, server.url, tour=True)
    yield newcomer
    context.close()
    assert newcomer.errors == []


def test_the_tour_comes_once_and_escape_leaves_it(newcomer: Visitor) -> None:
    page = newcomer.open()
    tour = page.get_by_role("dialog")
    expect(tour).to_contain_text("This is the rack")
    expect(tour).to_contain_text("1 of 4")
    expect(tour.get_by_role("button", name="Next")).to_be_focused()
    assert serious(page) == []
    page.keyboard.press("Enter")
    expect(tour).to_contain_text("2 of 4")
    page.keyboard.press("Escape")
    expect(tour).to_have_count(0)
    page.close()

    again = newcomer.open()
    pictures_of(again, "Pixel art 1.00")
    # By then it would have come.
    again.wait_for_timeout(1000)
    expect(again.get_by_role("dialog")).to_have_count(0)
    button = again.get_by_role("button", name="Take the tour")
    button.click()
    for step in range(1, 5):
        expect(again.get_by_role("dialog")).to_contain_text(f"{step} of 4")
        again.keyboard.press("Enter")
    expect(again.get_by_role("dialog")).to_have_count(0)
    expect(button).to_be_focused()


@pytest.mark.parametrize("width", [1440, 1920, 390])
def test_the_tour_rings_what_it_tells_of(newcomer: Visitor, width: int) -> None:
    page = newcomer.open()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.set_viewport_size({"width": width, "height": 844})
    for target in ("#rack", "#pictures"):
        rings(page, target)
        page.keyboard.press("Enter")


def rings(page: Page, target: str) -> None:
    """The tour's ring comes to lie six pixels around a part of the page."""

    def off() -> float:
        inner, outer = (page.locator(part).bounding_box() for part in (target, ".ls-tour-ring"))
        assert inner
        assert outer
        return max(
            abs(outer[side] - inner[side] - by)
            for side, by in {"x": -6, "y": -6, "width": 12, "height": 12}.items()
        )

    wait_for(lambda: off() < 1.5)


def test_the_keyboard_reaches_the_whole_rack(page: Page) -> None:
    pictures_of(page, "Pixel art 1.00")
    row = row_of(page, "Pixel art")
    switch(page, "Pixel art").focus()
    for name in ("Solo", "Earlier", "Later", "Take off the rack"):
        page.keyboard.press("Tab")
        expect(row.get_by_role("button", name=f"{name}: Pixel art")).to_be_focused()
    page.keyboard.press("Tab")
    expect(slider(page, "Pixel art")).to_be_focused()
    page.keyboard.press("Home")
    pictures_of(page, "Pixel art 0.00")
    expect(slider(page, "Pixel art")).to_be_focused()
    page.keyboard.press("Tab")
    expect(row.get_by_role("button", name="Recommended strength of Pixel art")).to_be_focused()
    page.keyboard.press("Enter")
    pictures_of(page, "Pixel art 1.00")
    page.keyboard.press("Tab")
    expect(row.get_by_role("spinbutton")).to_be_focused()
    page.keyboard.press("Tab")
    expect(switch(page, "Watercolour")).to_be_focused()
    page.keyboard.press("Space")
    pictures_of(page, "Pixel art 1.00 + Watercolour 1.00")
    expect(switch(page, "Watercolour")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    pictures_of(page, "Watercolour 1.00 + Pixel art 1.00")
    expect(page.get_by_role("button", name="Earlier: Watercolour")).to_be_focused()


def test_tab_walks_from_the_top_of_the_page_into_the_rack(page: Page) -> None:
    page.locator("body").click(position={"x": 2, "y": 2})
    for _ in range(4):
        page.keyboard.press("Tab")
        if switch(page, "Pixel art").evaluate("node => node === document.activeElement"):
            return
    pytest.fail("Tab does not reach the first switch")


def test_no_tab_is_wider_than_a_phone(browser: Browser, server: Server) -> None:
    context = browser.new_context(viewport={"width": PHONE, "height": 844})
    visitor = Visitor(context, server.url)
    page = visitor.open()
    for tab in TABS:
        fill(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE, tab
    context.close()
    assert visitor.errors == []


def test_the_page_does_not_change_its_width_from_tab_to_tab(page: Page) -> None:
    widths = set()
    for tab in TABS:
        go_to(page, tab)
        box = page.locator("#rack-column").bounding_box()
        assert box
        widths.add((box["x"], box["width"]))
    assert len(widths) == 1
