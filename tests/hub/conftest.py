"""Fixtures: the small fake Hub, served for one test, and a project to deploy there."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from lineas_core.system.paths import checkout
from tests.helpers.hub import SmallHub

# What a Space of the fixture `project` has.
WANTED = {
    ".gitattributes", "LICENSE", "README.md", "THIRD_PARTY_NOTICES.md", "app.py",
    "assets/large.safetensors", "assets/small.safetensors", "lineas_core/a.py",
    "lineas_core/studio/web/style.css",
    "prompts/a.json", "requirements.txt",
}  # fmt: skip


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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the files that a Space needs, and files that must not be uploaded."""
    root = tmp_path / "project"
    for name in ("lineas_core/studio/web", "lineas_core/__pycache__", "assets", "prompts", "tests"):
        (root / name).mkdir(parents=True)
    for name in ("app.py", "LICENSE", "README.md", "THIRD_PARTY_NOTICES.md", "requirements.lock"):
        shutil.copyfile(checkout() / name, root / name)
    for name in ("lineas_core/a.py", "lineas_core/studio/web/style.css", "prompts/a.json",
                 "lineas_core/__pycache__/a.pyc", "lineas_core/a.pyi", "lineas_core/.secret",
                 "tests/test_a.py", ".env"):  # fmt: skip
        (root / name).write_text("{}")
    (root / "assets" / "small.safetensors").write_bytes(bytes(10 * 2**20))
    (root / "assets" / "large.safetensors").write_bytes(bytes(10 * 2**20 + 1))
    return root
