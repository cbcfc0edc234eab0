"""Fixture: the small fake Hub, served for one test."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import huggingface_hub
import pytest

from tests.helpers.hub import SmallHub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    # Disable Xet, the client's alternative upload protocol, which needs a separate service.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # A login of whoever runs the tests must never be used.
    monkeypatch.setenv("HF_TOKEN", "hf_somebody_else")
    with SmallHub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
