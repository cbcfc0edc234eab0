"""A queue of jobs of its own for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lineas_core as lc
from tests.helpers.jobs import Shop


@pytest.fixture
def shop(tmp_path: Path, tiny: lc.LanguageModel) -> Iterator[Shop]:
    shop = Shop(tmp_path, tiny)
    yield shop
    shop.store.close()
