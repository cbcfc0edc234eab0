"""Fixture: a project to deploy to the small fake Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lineas_core.system.paths import checkout

# What a Space of the fixture `project` has.
WANTED = {
    ".gitattributes", "LICENSE", "README.md", "THIRD_PARTY_NOTICES.md", "app.py",
    "assets/large.safetensors", "assets/small.safetensors", "lineas_core/a.py",
    "lineas_core/studio/web/style.css",
    "prompts/a.json", "requirements.txt",
}  # fmt: skip


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
