"""Maps on the Hub, found by their model and got with one click, from a small fake Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

import lineas_core as lc
from lineas_core.system.paths import packaged
from tests.browser.parts import MARKS, go_to, unfold
from tests.helpers.app import Server
from tests.helpers.hub import CLIENT_WARNING, TOKEN, Fault, SmallHub, small_hub

pytestmark = [*MARKS, pytest.mark.filterwarnings(CLIENT_WARNING)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallHub]:
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        for name, repo in (("blueprint", "ann/blueprint"), ("ukiyo-e", "bob/a-rather-long-name")):
            smap = lc.SteeringMap.load(packaged("gallery") / f"emoji-{name}.safetensors")
            hub.users[TOKEN] = repo.partition("/")[0]
            smap.push_to_hub(repo, token=TOKEN, license="apache-2.0", private=False)
        hub.repositories["ann/blueprint"].downloads = 1234
        yield hub


@pytest.fixture(scope="module")
def server(hub: SmallHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {
        "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
    }  # fmt: skip
    server = Server(tmp_path_factory.mktemp("app"), environment=environment, fresh=True)
    server.start()
    yield server
    server.stop()
    assert "Traceback" not in server.log()


def search(page: Page, model: str) -> None:
    box = page.get_by_label("Maps for")
    box.fill(model)
    box.press("Enter")
    page.locator("#hub-search").click()


def test_a_map_for_a_model_is_found_and_got_with_one_click(page: Page, hub: SmallHub) -> None:
    go_to(page, "Library")
    unfold(page, "library-hub")
    search(page, "emoji-onestep")
    found = page.locator("#hub-found li")
    expect(found).to_have_count(2)
    expect(found.first).to_contain_text(
        re.compile("blueprint · by ann · apache-2.0 · 1234 downloads")
    )
    mine = page.locator("#library-maps label").filter(has_text="#ann/blueprint")
    expect(mine).to_have_count(0)
    found.first.get_by_role("button").click()
    expect(mine).to_have_count(1)
    expect(page.locator("#library-said")).to_contain_text("from ann/blueprint at")
    expect(found.first.get_by_role("button")).to_have_text("Get")

    search(page, "gpt2")
    expect(page.locator("#hub-found")).to_contain_text("The Hub has no map for gpt2")
    expect(found).to_have_count(0)


def test_what_the_hub_refuses_is_a_message_and_leaves_the_list(page: Page, hub: SmallHub) -> None:
    go_to(page, "Library")
    unfold(page, "library-hub")
    search(page, "emoji-onestep")
    found = page.locator("#hub-found li")
    expect(found).to_have_count(2)
    hub.fault = Fault("/resolve/", 429, {"Retry-After": "50"})
    found.last.get_by_role("button").click()
    expect(page.locator(".toast-body")).to_contain_text("Try again in 50 seconds")
    expect(found.last.get_by_role("button")).to_be_enabled()
    hub.fault = None
    found.last.get_by_role("button").click()
    expect(page.locator("#library-said")).to_contain_text("from bob/a-rather-long-name at")
