"""Processes are killed at random moments; what they had kept is there, and jobs go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

import lineas_core as lc
from lineas_core.scenes.bundle import Bundle, write_bundle
from lineas_core.scenes.scene import Scene, UsedMap
from tests.helpers.models import random_map
from tests.studio.jobs.kill_parts import VARIANTS, learned

pytestmark = pytest.mark.thorough

# Of a process's own CPU time, so that a busy machine is no other test: while it opens, and later.
EARLY, LATE = (0.0, 0.06), (0.06, 1.2)


class Nursery:
    """A process that has loaded the model, and forks others."""

    def __init__(self, folder: Path, model: Path, prompts: lc.PromptSet) -> None:
        self.home, self.said, self._log = folder / "home", folder / "said", folder / "log"
        prompts.save(folder / "prompts.json")
        maps = {f"{i}.safetensors": random_map({"a": 8}, i) for i in range(2)}
        scene = Scene("tiny", "text", ("ab",), tuple(UsedMap(name, 1.0) for name in maps))
        write_bundle(folder / "bundle.zip", Bundle(scene, maps))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.studio.jobs.kill_parts", str(model),
                 str(folder / "prompts.json"), str(folder / "bundle.zip")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        assert self._line() == "ready", self._log.read_text()

    def run(self, task: str, seed: int = 0) -> None:
        """Let a process come to its end."""
        self._start(task, seed)
        assert self._line() == "0", self._log.read_text()

    def kill(self, seed: int, after: float) -> None:
        """Start a process, and kill it when it has had so many seconds of CPU time."""
        pid = self._start("visit", seed)
        process = psutil.Process(pid)
        used = 0.0
        while used < after:
            times = process.cpu_times()
            used = times.user + times.system
            assert process.status() != psutil.STATUS_ZOMBIE, self._log.read_text()
            # It may have nothing left to do.
            if used > 0.3 and process.status() == psutil.STATUS_SLEEPING and self._idle(process):
                break
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        assert self._line() == str(-signal.SIGKILL), self._log.read_text()

    def news(self) -> list[list[object]]:
        """What the processes have said."""
        return [json.loads(line) for line in self.said.read_text().splitlines()]

    def close(self) -> None:
        with self._process:
            self._process.kill()

    def _idle(self, process: psutil.Process) -> bool:
        before = sum(process.cpu_times()[:2])
        time.sleep(0.2)
        return sum(process.cpu_times()[:2]) - before < 0.01

    def _start(self, task: str, seed: int) -> int:
        asked = {"home": str(self.home), "said": str(self.said), "seed": seed, "task": task}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def nursery(
    tmp_path: Path, small_models: dict[str, Path], prompts: lc.PromptSet
) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path, small_models["llama"], prompts)
    yield nursery
    nursery.close()


def rows(nursery: Nursery, scratch: Path) -> dict[str, list[sqlite3.Row]]:
    """What a copy of the database holds, so that looking does not help the app; and it is sound."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for file in nursery.home.glob("studio.db*"):
        shutil.copy(file, scratch)
    if not (scratch / "studio.db").exists():
        return {"jobs": [], "maps": [], "prompt_sets": []}
    with closing(sqlite3.connect(scratch / "studio.db")) as db:
        db.row_factory = sqlite3.Row
        assert [r[0] for r in db.execute("PRAGMA integrity_check")] == ["ok"]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        if not db.execute("PRAGMA user_version").fetchone()[0]:
            return {"jobs": [], "maps": [], "prompt_sets": []}
        return {
            table: db.execute(f"SELECT * FROM {table} ORDER BY number").fetchall()
            for table in ("jobs", "maps", "prompt_sets")
        }


def check(nursery: Nursery, scratch: Path, read: dict[str, int]) -> None:
    """Nothing that a process was told to be kept is lost, and no job is there twice.

    Args:
        nursery: whose home it is.
        scratch: a folder for copies.
        read: maps whose files were read already, and how large they were; new ones are added.
    """
    found, news = rows(nursery, scratch), nursery.news() if nursery.said.exists() else []
    gone = {words[1] for words in news if words[0] == "gone"}
    maps = {row["id"]: row for row in found["maps"]}
    for words in news:
        if words[0] == "map" and words[1] not in gone:
            assert maps[words[1]]["digest"] == words[2]
    for map_id, row in maps.items():
        path = nursery.home / "maps" / f"{map_id}.safetensors"
        if map_id in gone:
            continue
        if map_id not in read:
            assert lc.SteeringMap.load(path).digest() == row["digest"]
            read[map_id] = path.stat().st_size
        assert path.stat().st_size == read[map_id]
    known = Counter(row["id"] for row in found["jobs"])
    told = [words[1] for words in news if words[0] == "job"]
    assert {job_id: known[job_id] for job_id in told} == dict.fromkeys(told, 1)
    made = Counter(row["job"] for row in found["maps"] if row["job"])
    assert all(count == 1 for count in made.values())
    for row in found["jobs"]:
        assert row["status"] in ("queued", "running", "interrupted", "done"), row["message"]
        assert (row["status"] == "done") is (row["map_id"] is not None)
    kept = {row["id"] for row in found["prompt_sets"]}
    assert {words[1] for words in news if words[0] == "prompts"} <= kept
    assert not any("damaged" in note for w in news if w[0] == "open" for note in w[1])  # type: ignore[attr-defined]


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_lost(
    nursery: Nursery, tmp_path: Path, kills: int
) -> None:
    nursery.run("undisturbed")
    wanted = {words[1]: words[2] for words in nursery.news() if words[0] == "plain"}
    dice, read = random.Random(20260102), dict[str, int]()
    for seed in range(kills):
        nursery.kill(seed, dice.uniform(*(EARLY if seed % 3 == 0 else LATE)))
        check(nursery, tmp_path / "scratch", read)
    nursery.run("drain")
    check(nursery, tmp_path / "scratch", {})
    found = rows(nursery, tmp_path / "scratch")
    variants = {words[1]: words[2] for words in nursery.news() if words[0] == "job"}
    assert len(variants) >= min(3, kills // 3)
    for row in found["jobs"]:
        assert row["status"] == "done"
        assert len(row["losses"]) == 8 * row["steps"]
        path = nursery.home / "maps" / f"{row['map_id']}.safetensors"
        # A process may die before it can say which job it has queued.
        variant = [changes["steps"] for changes in VARIANTS].index(row["steps"])
        assert variant == variants.get(row["id"], variant)
        assert learned(lc.SteeringMap.load(path)) == wanted[variant]
    print(
        f"{kills} kills: {len(found['jobs'])} jobs, {len(found['maps'])} maps, "
        f"{len(found['prompt_sets'])} prompt sets, "
        f"{sum(w[0] == 'open' for w in nursery.news())} openings"
    )
