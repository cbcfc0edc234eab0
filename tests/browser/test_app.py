"""Drives the running app in Chromium, on the embedded language model."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lineas_core.home import lineas_home

expect.set_options(timeout=60_000)

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.embedded,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"),
        reason="no Chromium: install it with `apt-get install chromium`",
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "no Chromium: install it with `apt-get install chromium`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app as users start it, with maps of its own and the model that is converted already."""
    home = tmp_path_factory.mktemp("home")
    converted = lineas_home() / "models"
    if converted.is_dir():
        (home / "models").symlink_to(converted)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (home / "log").open("wb")
    environment = {**os.environ, "LINEAS_HOME": str(home), "GRADIO_SERVER_PORT": str(port)}
    server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stderr=log)
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            break
        except OSError:
            assert server.poll() is None, (home / "log").read_text()
            time.sleep(0.5)
    yield url
    server.terminate()
    server.wait(timeout=60)
    log.close()


@pytest.fixture
def page(browser: Browser, app: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(120_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app)
    expect(page.locator("#train")).to_be_enabled()
    yield page
    page.close()
    assert errors == []


def test_train_a_short_map_and_see_the_steered_text_differ(page: Page) -> None:
    page.get_by_role("button", name="Training settings").click()
    page.get_by_label("Steps").fill("4")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#cancel")).to_be_enabled()
    expect(page.locator("#progress")).to_contain_text(re.compile(r"Step \d of 4|Checking"))
    expect(page.locator("[data-status=done]")).to_be_visible(timeout=180_000)
    expect(page.locator("#health strong")).to_be_visible()
    expect(page.locator("#curve")).to_be_visible()
    expect(page.locator("#map input")).to_have_value(re.compile("football"))

    page.get_by_role("button", name="Sweep five strengths").click()
    cards = page.locator("#row article")
    expect(cards).to_have_count(5)
    texts = page.locator("#row .ls-text").all_inner_texts()
    assert len(texts) == 15
    assert all(text.strip() for text in texts)

    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#pair .ls-text")).to_have_count(6)
    pair = page.locator("#pair .ls-text").all_inner_texts()
    unsteered, steered = pair[:3], pair[3:]
    assert all(a != b for a, b in zip(unsteered, steered, strict=True))
    assert (unsteered, steered) == (texts[:3], texts[12:])


def test_the_slider_answers_with_its_strength(page: Page) -> None:
    expect(page.locator("#map input")).to_have_value(re.compile("football"))
    slider = page.get_by_role("slider", name=re.compile("Strength"))
    slider.focus()
    page.keyboard.press("Home")
    page.locator("#strength input[type=number]").fill("0.5")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#pair [data-strength='0.5']")).to_be_visible()


def test_an_empty_prompt_is_a_message_and_nothing_is_lost(page: Page) -> None:
    page.locator("#prompt textarea").fill("")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("The prompt is empty; write at least one word.")).to_be_visible()
    expect(page.locator("#map input")).to_have_value(re.compile("football"))


def test_training_can_be_cancelled_and_a_reload_finds_it(page: Page, app: str) -> None:
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#progress")).to_contain_text("Step 1 of")
    page.reload()
    expect(page.locator("#progress")).to_contain_text(re.compile(r"Step \d+ of"))
    page.locator("#cancel").click()
    expect(page.locator("[data-status=cancelled]")).to_be_visible()
    expect(page.locator("#train")).to_be_enabled()


def test_the_slider_moves_the_pictures_and_their_scores(page: Page) -> None:
    page.get_by_role("tab", name="Images").click()
    page.get_by_role("button", name="Training settings").click()
    page.get_by_role("spinbutton", name="Steps").fill("20")
    page.locator("#image-train").click()
    expect(page.locator("#image-progress [data-status=done]")).to_be_visible(timeout=180_000)
    expect(page.locator("#image-map input")).to_have_value(re.compile("pixel"))

    page.get_by_role("button", name="Show", exact=True).click()
    steered, untouched = (page.locator(f"#pictures [data-strength='{s}']") for s in (1, 0))
    expect(steered).to_have_count(4)
    pictures = steered.locator("img").evaluate_all("images => images.map(image => image.src)")
    scores = steered.locator(".ls-scores").all_inner_texts()

    page.locator("#image-strength input[type=range]").focus()
    page.keyboard.press("Home")
    expect(untouched).to_have_count(4)
    others = untouched.locator("img").evaluate_all("images => images.map(image => image.src)")
    assert all(a != b for a, b in zip(pictures, others, strict=True))
    assert untouched.locator(".ls-scores").all_inner_texts() != scores
    expect(untouched.locator(".ls-scores", has_text="IMG 1.00")).to_have_count(4)

    page.get_by_role("button", name="Grid over strengths").click()
    expect(page.locator("#picture-grid td img")).to_have_count(4 * 7)
    assert (
        page.locator("#picture-grid td:last-child img").evaluate_all(
            "images => images.map(image => image.src)"
        )
        == pictures
    )
    expect(page.locator("#curves .js-plotly-plot")).to_be_visible()


def test_nothing_is_cut_off_on_a_phone(browser: Browser, app: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app)
    expect(page.locator("#train")).to_be_enabled()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
