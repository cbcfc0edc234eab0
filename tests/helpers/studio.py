"""Helpers for Studio tests: visitors, their maps and jobs, and their pages' inputs."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import lineas_core as lc
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.storage.store import JobRow
from tests.helpers.models import random_map

ANN, BOB = "ann-" + "a" * 20, "bob-" + "b" * 20
SITE = "unet.mid_block.attentions.0.norm"


def answers_of(studio: Studio) -> Answers:
    """New answers of a Studio, which remember nothing yet."""
    return Answers(studio.inference, studio.library, guarded=studio.settings.demo)


def add_map(studio: Studio, model: str, sites: dict[str, int], seed: int, **info: Any) -> str:
    """Add a random map to Ann's library."""
    smap = random_map(sites, seed, spread=3.0)
    fields = {"model": model, "name": f"map {seed}", "created": "2026-01-02T03:04:05+00:00"}
    kept = lc.SteeringMap(smap.sites, dataclasses.replace(lc.MapInfo(**fields), **info))
    return studio.library.add_map(owner_of(ANN), kept, title=f"Map {seed}").id


def rack(*slots: tuple[str, float], **state: Any) -> dict[str, Any]:
    """A rack as the page sends it: active maps and their strengths."""
    rows = [{"id": i, "on": True, "strength": s, "inverse": False} for i, s in slots]
    return {"from": "page", "state": {"rows": rows, **state}}


def finished(studio: Studio, job_id: str, owner: str) -> JobRow:
    """Wait until the job is in a terminal state, and return it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job = studio.jobs.get(job_id, owner)
        assert job is not None
        if job.finished:
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job did not end: {job}")
