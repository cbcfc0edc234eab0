"""The app on a Space that lends a GPU by the call, under the real `spaces` package."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.parts import MARKS, Visitor, go_to, on_rack, unfold
from tests.helpers.app import Server
from tests.helpers.waiting import wait_for
from tests.helpers.zero_gpu import APP, Scheduler, names_of, token_of

pytestmark = MARKS


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler()
    yield scheduler
    scheduler.shutdown()
    scheduler.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scheduler: Scheduler) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("space")
    # The package keeps files of its own in the home of the user.
    environment = {**scheduler.environment, "HOME": str(folder)}
    server = Server(folder, ("-c", APP), environment, fresh=True)
    server.start()
    yield server
    # As Ctrl+C does: the processes that the package forked end with the app.
    server.stop(signal.SIGINT)
    assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def context_of_visitor(browser: Browser, server: Server) -> Iterator[Visitor]:
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        extra_http_headers={"X-IP-Token": token_of("ann")},
    )
    yield Visitor(context, server.url)
    context.close()


def test_pictures_texts_grids_and_training_run_on_the_visitors_quota(
    page: Page, scheduler: Scheduler
) -> None:
    assert scheduler.count()["/startup-report"] == 1
    expect(page.locator("#pictures img").first).to_be_visible()
    page.locator("#grid").click()
    expect(page.locator("#picture-grid td img")).to_have_count(7 * 4)

    go_to(page, "Text")
    expect(page.locator("#pair .ls-caret")).to_have_count(0)
    expect(page.locator("#pair .ls-text").nth(1)).to_have_text(re.compile(r"\w+"))

    go_to(page, "Train")
    expect(page.get_by_test_id("cell-0-0")).to_have_text("a tiger")
    page.locator("#set-name textarea").fill("On a lent GPU")
    unfold(page, "settings")
    page.locator("#steps input").fill("2")
    page.locator("#train").click()
    expect(page.locator("#progress [data-status=done]")).to_be_visible()
    assert "On a lent GPU" in on_rack(page)

    def given_back() -> bool:
        calls = scheduler.count()
        return calls["/schedule"] == calls["/release"] >= 5

    wait_for(given_back)
    assert set(names_of(scheduler.asked("token"))) == {"ann"}


def test_a_quota_that_is_used_up_is_told_and_loses_nothing(
    page: Page, scheduler: Scheduler
) -> None:
    scheduler.refusal = (429, {"left": 3, "wait": 600})
    try:
        go_to(page, "Train")
        expect(page.get_by_test_id("cell-0-0")).to_have_text("a tiger")
        unfold(page, "settings")
        page.locator("#steps input").fill("2")
        page.locator("#train").click()
        failed = page.locator("#progress [data-status=failed]")
        expect(failed).to_contain_text("3s left")
        expect(page.get_by_test_id("cell-0-0")).to_have_text("a tiger")
    finally:
        scheduler.refusal = None
    page.locator("#retry").click()
    expect(page.locator("#progress [data-status=done]")).to_be_visible()
