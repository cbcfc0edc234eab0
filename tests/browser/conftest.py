"""The browser, the running app, and a visitor of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.parts import CHROMIUM, FLAGS, Visitor
from tests.helpers.app import Server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "no Chromium: install it with `apt-get install chromium`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("app"))
    server.start()
    yield server
    server.stop()
    assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def context_of_visitor(browser: Browser, server: Server) -> Iterator[Visitor]:
    """One visitor for the tests of a file."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    yield Visitor(context, server.url)
    context.close()


@pytest.fixture
def visitor(context_of_visitor: Visitor) -> Iterator[Visitor]:
    """The same visitor, of whose pages none may have told of an error."""
    context_of_visitor.errors.clear()
    yield context_of_visitor
    assert context_of_visitor.errors == []


@pytest.fixture
def page(visitor: Visitor) -> Iterator[Page]:
    """A new page of the app."""
    page = visitor.open()
    yield page
    page.close()
