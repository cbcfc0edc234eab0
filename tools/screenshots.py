"""Screenshots of the app: every tab in both themes and widths, and an animation of the sliders.

    python -m tools.screenshots        # about three minutes on two cores

Starts the app with its own folder, drives it in Chromium, and writes into docs/images/studio, and
the picture that a Space shows beside links to it into assets.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lineas_core.system.home import lineas_home

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "images" / "studio"
THUMBNAIL, CARD = ROOT / "assets" / "thumbnail.png", (1200, 675)
TABS = ("Images", "Text", "Train", "Compare", "Understand", "Library")
WIDTHS = {1440: 900, 390: 844}
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FILM = {"width": 1080, "height": 640}
STRENGTHS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@contextmanager
def app() -> Iterator[str]:
    """Start the app, yield its URL, and stop it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        converted = lineas_home() / "models"
        if converted.is_dir():
            (Path(folder) / "models").symlink_to(converted)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {**os.environ, "LINEAS_HOME": folder, "GRADIO_SERVER_PORT": str(port)}
        server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment)
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(url, timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait(timeout=60)


def open_page(browser: Browser, url: str, width: int, height: int, theme: str) -> Page:
    """Open the page and wait for its first pictures."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    page.add_init_script("localStorage.setItem('lineas-tour-seen', '1')")
    page.goto(f"{url}/?__theme={theme}")
    expect(page.locator("#pictures img")).to_have_count(4)
    return page


def fill(page: Page, tab: str) -> None:
    """Fill the tab with typical content."""
    page.get_by_role("tab", name=tab, exact=True).click()
    if tab == "Images":
        page.locator("#grid").click()
        expect(page.locator("#picture-grid td img")).to_have_count(28)
        expect(page.locator("#curves .js-plotly-plot")).to_be_visible()
    elif tab == "Text":
        page.locator("#compare").click()
        expect(page.locator("#pair .ls-readout b").first).to_be_visible()
    elif tab == "Train":
        expect(page.locator("#prompt-table")).to_contain_text("tiger")
        if page.locator("[data-status=done]").count() == 0:
            page.locator("#train").click()
            expect(page.locator("[data-status=done]")).to_be_visible(timeout=300_000)
    elif tab == "Compare":
        expect(page.locator("#versus-figures td").first).to_be_visible()
        page.locator("#versus-show").click()
        expect(page.locator("#beside td img")).to_have_count(9)
    elif tab == "Understand":
        expect(page.locator("#support-plot .js-plotly-plot")).to_be_visible()
        expect(page.locator("#delta-plot .js-plotly-plot")).to_be_visible()
    else:
        page.locator("#library-maps input").first.check()
        expect(page.locator("#library-card dl")).to_be_visible()
    page.wait_for_timeout(1_000)


def shoot(page: Page, name: str) -> None:
    """Save the whole page as a PNG file with a reduced palette."""
    data = page.screenshot(full_page=True)
    save(Image.open(io.BytesIO(data)).convert("RGB"), TARGET / f"{name}.png")


def save(image: Image.Image, path: Path) -> None:
    """Save a PNG file with a reduced palette."""
    image.quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)


def save_thumbnail(screenshot: Path) -> None:
    """Save the top of a screenshot, without its margins, in the size of a card beside a link."""
    image = Image.open(screenshot).convert("RGB")
    left = (image.width - CARD[0]) // 2
    save(image.crop((left, 0, left + CARD[0], CARD[1])), THUMBNAIL)


def film(browser: Browser, url: str) -> None:
    """Record the sliders being moved one after the other."""
    page = open_page(browser, url, FILM["width"], FILM["height"], "light")
    frames: list[Image.Image] = []

    def take() -> None:
        data = page.screenshot()
        frames.append(Image.open(io.BytesIO(data)).convert("RGB"))

    def answered(title: str, strength: float) -> None:
        label = re.compile(re.escape(f"{title} {strength:.2f}"))
        expect(page.locator("#pictures [data-mix]").first).to_have_attribute("data-mix", label)
        take()

    rows = page.locator(".rack-row")
    for number in range(2):
        title = rows.nth(number).locator(".rack-name").inner_text().strip()
        for strength in STRENGTHS:
            box = rows.nth(number).locator("input[type=number]")
            box.fill(f"{strength:.2f}")
            box.press("Enter")
            answered(title, strength)
        if number == 0:
            rows.nth(0).get_by_role("switch").uncheck()
    palette = frames[-1].quantize(128)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    seconds = [0.35] * len(small)
    seconds[len(STRENGTHS) - 1] = seconds[-1] = 1.4
    small[0].save(
        TARGET / "sliders.gif",
        save_all=True,
        append_images=small[1:],
        duration=[round(1000 * s) for s in seconds],
        loop=0,
        optimize=True,
    )
    page.close()


def main() -> None:
    """Take all screenshots."""
    TARGET.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with app() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        film(browser, url)
        for width, height in WIDTHS.items():
            for theme in ("light", "dark"):
                page = open_page(browser, url, width, height, theme)
                for tab in TABS:
                    fill(page, tab)
                    shoot(page, f"{tab.lower()}-{width}-{theme}")
                page.close()
        browser.close()
    save_thumbnail(TARGET / "images-1440-light.png")


if __name__ == "__main__":
    main()
