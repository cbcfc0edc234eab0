"""What fits: long titles, phones; and what a keyboard moves besides the rack."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.parts import MARKS, go_to, pictures_of, switch

pytestmark = MARKS

LONG = "Wiederherstellungsmaßnahmenplanungskommissionsvorsitzenderin"
assert len(LONG) == 60
# What sticks out of the rack, or lies on another part of its own row.
MISPLACED = """() => {
  const rack = document.querySelector('.rack').getBoundingClientRect(), found = [];
  for (const node of document.querySelectorAll('.rack *')) {
    const box = node.getBoundingClientRect();
    if (box.width && (box.right > rack.right + 1 || box.left < rack.left - 1))
      found.push('out: ' + node.className + node.tagName);
  }
  for (const row of document.querySelectorAll('.rack-row')) {
    const parts = [...row.querySelectorAll('.rack-name, .rack-track, input[type=number],'
      + ' .rack-tools, .rack-more')]
      .map((node) => node.getBoundingClientRect()).filter((box) => box.width);
    for (const [n, a] of parts.entries()) for (const b of parts.slice(n + 1))
      if (a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 1 && b.top < a.bottom - 1)
        found.push('overlap in ' + row.dataset.id);
  }
  return found;
}"""

RETITLE = """title => { for (const name of document.querySelectorAll('.rack-name'))
  name.querySelector('span').textContent = title; }"""


@pytest.mark.parametrize("width", [1440, 390])
def test_a_title_of_60_characters_fits(page: Page, width: int) -> None:
    pictures_of(page, "Pixel art 1.00")
    page.set_viewport_size({"width": width, "height": 844})
    for beyond in (False, True):
        page.get_by_label("Beyond 0 to 1").set_checked(beyond)
        page.wait_for_timeout(500)
        # Last, for the rack is drawn anew with the maps' own titles by each of the above.
        page.evaluate(RETITLE, LONG)
        names = page.locator(".rack-name span")
        expect(names).to_have_text([LONG] * names.count())
        assert names.first.evaluate("node => node.scrollWidth > node.clientWidth")
        assert page.evaluate(MISPLACED) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_tabs_and_the_bar_answer_to_arrow_keys(page: Page) -> None:
    pictures_of(page, "Pixel art 1.00")
    bar = page.get_by_role("slider", name="First prompt")
    bar.focus()
    page.keyboard.press("ArrowRight")
    expect(bar).to_have_attribute("aria-valuetext", "51 % untouched, 49 % steered")
    page.get_by_role("tab", name="Images").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Text")).to_be_focused()
    expect(page.get_by_role("tab", name="Text")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Library")).to_be_focused()


def test_a_phone_has_a_line_for_a_map_and_train_within_two_screens(page: Page) -> None:
    pictures_of(page, "Pixel art 1.00")
    page.set_viewport_size({"width": 390, "height": 844})
    row = page.locator(".rack-row").first
    expect(row.locator(".rack-line")).to_be_visible()
    box = row.bounding_box()
    assert box
    assert box["height"] < 60
    tools = page.get_by_role("button", name="Tools: Pixel art")
    expect(page.get_by_role("button", name="Solo: Pixel art")).to_be_hidden()
    tools.click()
    expect(page.get_by_role("button", name="Solo: Pixel art")).to_be_visible()
    expect(tools).to_be_focused()
    expect(switch(page, "Pixel art")).to_be_checked()
    tools.click()
    go_to(page, "Train")
    page.locator("#train").scroll_into_view_if_needed()
    low = page.evaluate("document.querySelector('#train').getBoundingClientRect().bottom + scrollY")
    assert low <= 2 * 844
