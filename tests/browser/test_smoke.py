"""The two things that the page is for: a slider that moves pictures, and one that moves texts."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from lineas_core.maps.calibration import Calibration
from lineas_core.studio.storage.gallery import load_gallery
from lineas_core.system.paths import packaged
from tests.browser.parts import SMOKE, go_to, pictures_of, slider, sources, switch

pytestmark = SMOKE

ALONE = "Pixel art 1.00"
# Which share of the way a shipped map has gone at each strength.
EVEN = Calibration(load_gallery(packaged("gallery"))["emoji-pixel-art"].calibration)


def scores_of(page: Page) -> list[str]:
    return page.locator("#pictures .ls-scores").all_inner_texts()


def before_and_after(page: Page) -> list[str]:
    """The two pictures of the slider that compares them."""
    expect(page.locator("#before-after img[src]")).to_have_count(2)
    return sources(page.locator("#before-after img"))


def test_a_shipped_maps_slider_moves_the_pictures_and_their_scores(page: Page) -> None:
    full = pictures_of(page, ALONE)
    scores = scores_of(page)
    before, after = before_and_after(page)
    assert before != after
    slider(page, "Pixel art").focus()
    page.keyboard.press("Home")
    untouched = pictures_of(page, "Pixel art 0.00")
    assert all(a != b for a, b in zip(full, untouched, strict=True))
    assert len(set(untouched)) == 4
    expect(page.locator("#pictures .ls-scores", has_text="IMG 1.00")).to_have_count(4)
    assert scores_of(page) != scores
    expect(page.locator("#before-after img").nth(1)).to_be_visible()
    page.keyboard.press("ArrowRight")
    assert set(pictures_of(page, f"Pixel art {EVEN.strength(0.01):.2f}")).isdisjoint(full)
    # A handle that is not even stands at the strength itself.
    page.get_by_label("Even slider").uncheck()
    slider(page, "Pixel art").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    pictures_of(page, "Pixel art 0.01")


def test_texts_are_written_side_by_side_and_measured(page: Page) -> None:
    go_to(page, "Text")
    expect(switch(page, "Football")).to_be_checked()
    page.locator("#tokens input").fill("24")
    page.locator("#compare").click()
    # While they are written there is a caret, and some of the text. The tab opens with texts of the
    # length that was set before, which are written to their end first.
    drawn = page.locator('#pair [data-drawn*=", 24, "]')
    expect(drawn.locator(".ls-caret")).to_have_count(2)
    expect(page.locator("#pair .ls-text").first).not_to_be_empty()
    expect(page.locator("#pair .ls-caret")).to_have_count(0)
    unsteered, steered = page.locator("#pair .ls-text").all_inner_texts()
    assert unsteered.strip()
    assert steered.strip()
    assert unsteered != steered
    for side in ("unsteered", "steered"):
        readout = page.locator(f"#pair [data-side={side}] .ls-readout")
        expect(readout).to_have_text(
            re.compile(r"football\s*[01] of 1.*toxicity\s*[01]\.\d+.*perplexity\s*\d", re.DOTALL)
        )

    # The slider answers here as well; at 0 both sides are the same text.
    slider(page, "Football").focus()
    page.keyboard.press("Home")
    expect(page.locator("#pair [data-side=steered] h3")).to_have_text("Football 0.00")
    expect(page.locator("#pair .ls-readout b")).to_have_count(6)
    same = page.locator("#pair .ls-text").all_inner_texts()
    assert same == [unsteered, unsteered]
