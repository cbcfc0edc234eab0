"""What every browser test needs: a visitor with a browser, and hands for the page."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, FilePayload, Locator, Page, expect

import lineas_core as lc
from lineas_core.studio.answers.prompts import Modality
from tests.helpers.waiting import SECONDS

expect.set_options(timeout=SECONDS * 1000)

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
# Inside Gradio's own table, where no attribute of ours goes: a column that cannot be edited is
# marked by an aria-label on a div without a role (aria-prohibited-attr).
EXCLUDED = [['#prompt-table [aria-label="Static column"]']]
# What Gradio writes of a stream that ends with its page.
CUT_OFF = (
    "AbortError: signal is aborted",
    "AbortError: BodyStreamBuffer was aborted",
    "Unexpected error Connection errored out",
    "Unexpected error 404: Not Found",
    "Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING",
    "TypeError: network error",
)
TABS = ("Images", "Text", "Train", "Compare", "Understand", "Library")

# For the few that `make test` runs; all others are of `make test-all`.
SMOKE = [
    pytest.mark.browser,
    pytest.mark.embedded,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"),
        reason="no Chromium: install it with `apt-get install chromium`",
    ),
]
MARKS = [*SMOKE, pytest.mark.thorough]


class Visitor:
    """A person with a browser: pages whose errors are noted.

    Args:
        context: their browser.
        url: of the app.
        tour: whether they have not seen the tour yet.
    """

    def __init__(self, context: BrowserContext, url: str, *, tour: bool = False) -> None:
        self.context, self.url, self.errors = context, url, list[str]()
        self._cut_off = False
        if not tour:
            context.add_init_script("localStorage.setItem('lineas-tour-seen', '1')")
        # A new page is that of a newcomer, not where the last one ended; one that is loaded again
        # is not new.
        context.add_init_script(
            "sessionStorage.getItem('lineas-session') || localStorage.removeItem('lineas-session')"
        )
        context.set_default_timeout(SECONDS * 1000)

    def open(self, address: str = "") -> Page:
        """A new page at `address`, when the rack is there and the first pictures are."""
        self._cut_off = False
        page = self.context.new_page()
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on(
            "console",
            lambda message: self._note(message.text) if message.type == "error" else None,
        )
        page.goto(self.url + "/" + address)
        expect(page.locator(".rack-row").first).to_be_visible()
        expect(page.locator("#pictures img").first).to_be_attached()
        return page

    def reload(self, page: Page) -> None:
        """Load the page again; what its client says of answers that this cuts off is no error."""
        self._cut_off = True
        page.reload()
        expect(page.locator(".rack-row").first).to_be_visible()

    def _note(self, error: str) -> None:
        if not (self._cut_off and error.startswith(CUT_OFF)):
            self.errors.append(error)


def go_to(page: Page, tab: str) -> None:
    """Open a tab."""
    page.get_by_role("tab", name=tab).click()


def unfold(page: Page, accordion: str) -> None:
    """Open the accordion of that id."""
    page.locator(f"#{accordion} > button").click()


def file(name: str, text: str) -> FilePayload:
    """A text file to upload."""
    return {"name": name, "mimeType": "text/plain", "buffer": text.encode()}


def upload(page: Page, *files: FilePayload) -> None:
    """Upload prompts on the train tab."""
    unfold(page, "uploads")
    page.locator("#prompt-files input[type=file]").set_input_files(list(files))


def upload_a_few(page: Page, modality: Modality) -> lc.PromptSet:
    """Upload eight prompts a side: their map is measured in a quarter of the time of 32."""
    things = ("foxes", "boats", "towers", "lamps", "roses", "drums", "houses", "cars")
    image = modality == "image"
    few = lc.PromptSet(
        name="Few",
        source=[thing if image else f"We talked about {thing}." for thing in things],
        target=[
            f"{thing}, pixel art" if image else f"The goal was scored by {thing}."
            for thing in things
        ],
        concept="pixel art" if image else "football",
        modality=modality,
    )
    told = {"title": few.name, "concept": few.concept, "source": few.source, "target": few.target}
    upload(page, file("few.json", json.dumps(told)))
    expect(page.locator("#counts")).to_contain_text("8 / 32 source · 8 / 32 target")
    expect(page.locator("#set-name textarea")).to_have_value(few.name)
    return few


def sources(images: Locator) -> list[str]:
    """The pictures themselves, as the page holds them."""
    found: list[str] = images.evaluate_all("images => images.map(image => image.src)")
    return found


def same_pictures(some: list[str], others: list[str]) -> bool:
    """Whether pictures that were made in batches of other sizes are the same, to 1 of 255."""
    pixels = [np.stack([decoded(source) for source in side]) for side in (some, others)]
    return bool((np.abs(pixels[0] - pixels[1]) <= 1).all())


def decoded(picture: str | Image.Image) -> NDArray[np.int16]:
    """The pixels of a picture, or of one that the page holds."""
    if isinstance(picture, str):
        picture = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    return np.asarray(picture.convert("RGB"), np.int16)


def pictures_of(page: Page, mix: str) -> list[str]:
    """The pictures on the image tab, as soon as they are those of that mix."""
    expect(page.locator(f'#pictures [data-mix="{mix}"] img')).to_have_count(4)
    return sources(page.locator("#pictures img"))


def row_of(page: Page, title: str) -> Locator:
    """A map's row in the rack."""
    return page.locator(".rack-row").filter(has=page.get_by_text(title, exact=True))


def put_on_rack(page: Page, title: str) -> None:
    """Have a map's row in the rack, switched on, whatever was there before."""
    if row_of(page, title).count() == 0:
        page.get_by_label("Add a map to the rack").select_option(label=title)
    elif not switch(page, title).is_checked():
        switch(page, title).click()
    expect(switch(page, title)).to_be_checked()


def switch(page: Page, title: str) -> Locator:
    """A map's switch."""
    return row_of(page, title).get_by_role("switch")


def slider(page: Page, title: str) -> Locator:
    """A map's slider."""
    return row_of(page, title).get_by_role("slider")


def on_rack(page: Page) -> list[str]:
    """Titles in the rack, first applied first."""
    return page.locator(".rack-name span").all_inner_texts()


def serious(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    # Nothing that fades in or out, such as a toast, may be taken for faint text.
    page.mouse.move(0, 0)
    page.wait_for_function(
        "() => document.getAnimations().every((each) => !(each instanceof CSSTransition))"
    )
    options = {"resultTypes": ["violations"]}
    found = Axe().run(page, {"exclude": EXCLUDED}, options).response["violations"]
    return [
        f"{rule['id']} {node['target']}: {node['failureSummary']}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
