"""How fast a slider changes the picture: `python -m benchmarks.slider`.

It starts the app in its own folder and opens it in Chromium. The figure is the seconds from
releasing a strength slider until the new picture is painted, divided by the seconds of the callback
alone, which shows the overhead of the server, the network and the page. With `--training`, it also
measures while another visitor's map trains, and from a fresh page's first paint to a changed
picture.
"""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradio_client import Client
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.machine import extent, report, show, spread
from benchmarks.serving import Server, serving
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import new_key
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.images.callbacks import ImageCallbacks

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip
PROMPT, MAP = "a cat", "emoji-pixel-art"
SLIDER = f'#rack [data-id="{MAP}"] input[type=range]'
# Model and prompt set of the other visitor's map.
TRAINED = {
    "a text map": ("smollm2", "football"),
    "an image map": ("emoji-onestep", "emoji-watercolor"),
}
SECONDS_FOR_AN_ANSWER = 60_000

# Records when a strength was released, and when the picture at that strength was first painted.
WATCH = """
window.benchmark = { released: {}, painted: {} };
document.addEventListener("change", (event) => {
  if (event.target.type === "range") {
    window.benchmark.released[Number(event.target.value).toFixed(2)] ??= performance.now();
  }
}, true);
addEventListener("DOMContentLoaded", () => new MutationObserver(async () => {
  const figure = document.querySelector("#pictures .ls-picture");
  const strength = figure?.dataset.mix.match(/ (-?[0-9.]+)$/)?.[1];
  if (!strength || strength in window.benchmark.painted) return;
  window.benchmark.painted[strength] = 0;
  await figure.querySelector("img").decode();
  requestAnimationFrame(() => { window.benchmark.painted[strength] = performance.now(); });
}).observe(document.body, { childList: true, subtree: true }));
"""
PAINTED = "(strength) => window.benchmark.painted[strength]"
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def measure_slider(count: int, *, training: bool) -> None:
    """Print the seconds, and their ratio to the callback's.

    Args:
        count: number of strengths at which to release the slider.
        training: also measure from a fresh page, and while each kind of map trains.
    """
    with serving() as server, chromium() as browser:
        other = Client(server.url, verbose=False, download_files=False)
        visitor = other.predict(api_name="/new_visitor")
        other.predict(visitor, [PROMPT], [MAP], [0.5], api_name="/picture")
        other.predict(visitor, PROMPT, [], [], "smollm2", 0, 1, api_name="/complete")
        if training:
            first = _first_picture(browser, server)
            show("first paint to a changed picture", seconds=first, target=10.0)
        page = opened(browser, server)
        inside = statistics.median(_callback_seconds(count))
        alone = _releases(page, count, seed=0)
        report(
            "seconds from a slider to its picture, over the callback's",
            statistics.median(alone) / inside,
            spread=extent([seconds / inside for seconds in alone]),
            seeds=[0],
            seconds=spread(alone),
            callback_seconds=inside,
            target_seconds=0.4,
        )
        for seed, (kind, (model, prompts)) in enumerate(TRAINED.items() if training else (), 1):
            with _training(other, visitor, model, prompts):
                found = _releases(page, count, seed)
            show(f"slider to new picture while {kind} trains", **spread(found), target=1.5)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium, without a window.

    Raises:
        RuntimeError: none is installed.
    """
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        raise RuntimeError("No Chromium is installed. Try: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def opened(browser: Browser, server: Server) -> Page:
    """Open a page with one prompt, and wait for its first picture."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(SECONDS_FOR_AN_ANSWER)
    page.add_init_script(WATCH)
    page.add_init_script("localStorage.setItem('lineas-tour-seen', '1')")
    page.goto(server.url)
    page.locator("#pictures img").first.wait_for()
    page.keyboard.press("Escape")
    page.locator("#image-prompts textarea").fill(PROMPT)
    page.locator("#show").click()
    page.wait_for_function("document.querySelectorAll('#pictures img').length === 1")
    _make_slider_plain(page)
    return page


def _make_slider_plain(page: Page) -> None:
    """Let the slider's place be the strength, by which `WATCH` knows the picture."""
    page.locator(".rack-even input").uncheck()


def _first_picture(browser: Browser, server: Server) -> float:
    """Seconds from a fresh page's first paint until the slider has changed the picture."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(SECONDS_FOR_AN_ANSWER)
    page.add_init_script(WATCH)
    page.goto(server.url)
    picture = page.locator("#pictures img").first
    before = picture.get_attribute("src")
    page.keyboard.press("Escape")
    _make_slider_plain(page)
    strength = _drag(page, 0.3)
    page.wait_for_function(PAINTED, arg=strength)
    assert picture.get_attribute("src") != before
    seconds = (page.evaluate(PAINTED, strength) - page.evaluate(FIRST_PAINT)) / 1000
    page.close()
    return float(seconds)


def _releases(page: Page, count: int, seed: int) -> list[float]:
    """Seconds from releasing the slider to the picture, for each of `count` strengths."""
    places = [n / 100 for n in range(5, 96)]
    found: list[float] = []
    for place in random.Random(seed).sample(places, min(count, len(places))):
        strength = moved(page, place)
        released, painted = page.evaluate(
            "(s) => [window.benchmark.released[s], window.benchmark.painted[s]]", strength
        )
        # Negative if the picture was already painted while the slider passed this strength.
        found.append(max(0.0, painted - released) / 1000)
        page.wait_for_timeout(300)
    return found


def moved(page: Page, place: float) -> str:
    """Drag the slider and wait for its picture; returns the strength there."""
    page.evaluate("window.benchmark.released = {}; window.benchmark.painted = {}")
    strength = _drag(page, place)
    page.wait_for_function(PAINTED, arg=strength)
    return strength


def _drag(page: Page, place: float) -> str:
    """Drag the slider to a fraction of its length as a user does; returns the strength there."""
    slider = page.locator(SLIDER)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    now = float(slider.input_value())
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 8 + now * (box["width"] - 16), height)
    page.mouse.down()
    page.mouse.move(box["x"] + 8 + place * (box["width"] - 16), height, steps=8)
    page.mouse.up()
    return f"{float(slider.input_value()):.2f}"


@contextmanager
def _training(client: Client, visitor: str, model: str, prompts: str) -> Iterator[None]:
    """Within the block, another visitor's map is training."""

    def news() -> dict[str, Any]:
        found: dict[str, Any] = client.predict(visitor, job["id"], api_name="/job")
        return found

    job = client.predict(visitor, model, prompts, steps=2000, api_name="/train")
    while not news()["step"]:
        time.sleep(0.2)
    yield
    if (end := news())["status"] != "running":
        raise RuntimeError(f"The map was not training during the whole measurement: {end}")
    client.predict(visitor, job["id"], api_name="/cancel")
    while news()["status"] == "running":
        time.sleep(0.2)


def _callback_seconds(count: int) -> list[float]:
    """Seconds of the callback alone, in this process, for strengths that are not cached."""
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Settings(home=Path(folder)), environment={})
        answers = Answers(studio.inference, studio.library, guarded=False)
        pictures, key, times = ImageCallbacks(studio, answers), new_key(), []
        for n in range(count + 3):
            rack = {"state": {"rows": [{"id": MAP, "strength": 0.1 + 0.8 * n / count}]}}
            began = time.perf_counter()
            pictures.look(key, "emoji-onestep", rack, PROMPT, 0)
            times.append(time.perf_counter() - began)
        studio.close()
    return times[3:]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = ArgumentParser(prog="python -m benchmarks.slider")
    parser.add_argument("--count", type=int, default=20, help="releases for each figure")
    parser.add_argument("--training", action="store_true", help="also while maps train")
    chosen = parser.parse_args(argv)
    measure_slider(chosen.count, training=chosen.training)


if __name__ == "__main__":
    main()
