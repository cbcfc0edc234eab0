"""One app for all attacks of a file, and its clients."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import httpx
import pytest

from lineas_core.studio.access.settings import Settings
from lineas_core.studio.app import Studio
from tests.helpers.server import client_of, launched


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("home")
    studio = Studio(Settings(home=home, max_waiting=16, max_sessions=6), environment={})
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def page(studio: Studio) -> Iterator[gr.Blocks]:
    with launched(studio) as page:
        yield page


@pytest.fixture(scope="module")
def web(page: gr.Blocks) -> Iterator[httpx.Client]:
    with client_of(page) as client:
        yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gradio's queue sums up its latest calls with pandas, which warns."""
    for item in items:
        if "/attack/" in str(item.path):
            for warning in ("'future.no_silent_downcasting' is", "The copy keyword is"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning} deprecated"))
