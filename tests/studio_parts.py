"""Fixtures of the Studio's tests: a Studio of its own, small models, maps and visitors."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lineas_core as lc
from lineas_core.metrics import clip
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.storage.store import JobRow
from tests.conftest import random_map
from tests.small_pipelines import small_sd
from tests.test_clip import save_small_clip

ANN, BOB = "ann-" + "a" * 20, "bob-" + "b" * 20
SITE = "unet.mid_block.attentions.0.norm"


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(Settings(home=tmp_path / "home"), environment={})
    yield studio
    studio.close()


@pytest.fixture
def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small image model, and a small scorer in the place of the embedded one."""
    small_sd().save_pretrained(tmp_path / "sd")
    monkeypatch.setattr(clip, "_loaded", {})
    monkeypatch.setitem(clip.SCORERS, "clip-emoji", save_small_clip(tmp_path / "clip"))
    return str(tmp_path / "sd")


def add_map(studio: Studio, model: str, sites: dict[str, int], seed: int, **info: Any) -> str:
    """A random map in Ann's library."""
    smap = random_map(sites, seed, spread=3.0)
    fields = {"model": model, "name": f"map {seed}", "created": "2026-01-02T03:04:05+00:00"}
    kept = lc.SteeringMap(smap.sites, dataclasses.replace(lc.MapInfo(**fields), **info))
    return studio.library.add_map(owner_of(ANN), kept, title=f"Map {seed}").id


@pytest.fixture
def inks(studio: Studio, painter: str) -> list[str]:
    """Two maps of the small image model."""
    return [
        add_map(studio, painter, {SITE: 16}, seed, concept=concept)
        for seed, concept in ((0, "ink"), (1, "gold"))
    ]


@pytest.fixture
def writer(small_models: dict[str, Path]) -> str:
    """A small language model."""
    return str(small_models["llama"])


@pytest.fixture
def words(studio: Studio, writer: str) -> str:
    """A map of the small language model."""
    sites = {"model.layers.1.post_attention_layernorm": 16}
    return add_map(studio, writer, sites, 2, concept="football")


def rack(*slots: tuple[str, float], **state: Any) -> dict[str, Any]:
    """A rack as the page sends it: maps that are on, at their strengths."""
    rows = [{"id": i, "on": True, "strength": s, "inverse": False} for i, s in slots]
    return {"from": "page", "state": {"rows": rows, **state}}


def finished(studio: Studio, job_id: str, owner: str) -> JobRow:
    """The job, once nothing changes it any more."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job = studio.jobs.get(job_id, owner)
        assert job is not None
        if job.finished:
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job did not end: {job}")
