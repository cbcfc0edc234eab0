"""A queue of jobs of its own for one test, and the run that a job should be equal to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lineas_core as lc
from tests.helpers.jobs import CHANGES, Shop


@pytest.fixture
def shop(tmp_path: Path, tiny: lc.LanguageModel) -> Iterator[Shop]:
    shop = Shop(tmp_path, tiny)
    yield shop
    shop.store.close()


@pytest.fixture
def undisturbed(tiny: lc.LanguageModel, prompts: lc.PromptSet) -> lc.TrainResult:
    return lc.train(tiny, prompts, lc.TrainConfig.for_model(tiny, **CHANGES))
