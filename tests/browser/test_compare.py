"""The compare tab: two methods trained on the same prompts, and what their maps do."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.parts import MARKS, go_to, on_rack, serious, sources, unfold, upload_a_few

pytestmark = MARKS


def save_a_set(page: Page) -> None:
    """A set of a few prompts, so that a fit takes seconds."""
    go_to(page, "Train")
    expect(page.get_by_test_id("cell-0-0")).to_have_text("a tiger")
    upload_a_few(page, "image")
    page.locator("#save-set").click()
    expect(page.locator("#set-said")).to_contain_text("Saved as")


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=option).first.click()


def test_two_methods_are_trained_and_seen_side_by_side(page: Page) -> None:
    save_a_set(page)
    go_to(page, "Compare")
    expect(page.locator("#versus-figures table")).to_be_visible()
    unfold(page, "versus")
    panel = page.locator("#versus")
    panel.get_by_label("Prompt set").click()
    page.get_by_role("option", name="Few (yours)").click()
    choose(page, "Method A", "Mean-AcT")
    choose(page, "Method B", "Lin-AcT")
    page.locator("#train-both").click()
    expect(page.locator("#versus-progress [data-status=done]")).to_have_count(2)

    table = page.locator("#versus-figures")
    expect(table).to_contain_text("A: Few · Mean-AcT")
    expect(table).to_contain_text("B: Few · Lin-AcT")
    pictures = page.locator("#beside td img")
    expect(pictures).to_have_count(9)
    shown = sources(pictures)
    assert len(set(shown)) == len(shown)
    assert on_rack(page)[:2] == ["Few · Mean-AcT", "Few · Lin-AcT"]
    expect(page.locator(".rack-solo[aria-pressed=true]")).to_have_count(1)
    assert serious(page) == []

    page.locator("#versus-strength input[type=range]").focus()
    page.keyboard.press("Home")
    page.locator("#versus-show").click()
    expect(page.locator("#beside")).to_contain_text("A: Few · Mean-AcT 0.00")
    at_rest = sources(pictures)
    assert len(set(at_rest)) == 3

    # Two maps of the library, without training.
    choose(page, "Map A", "Football")
    expect(page.locator("#versus-opening")).to_be_visible()
    expect(page.locator("#beside .ls-card")).to_have_count(3)
    expect(page.locator("#beside .ls-readout b").first).to_be_visible()
    assert serious(page) == []
