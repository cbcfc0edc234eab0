"""Processes to be killed.

`python -m tests.studio.jobs.kill_parts MODEL PROMPTS BUNDLE` loads a model once.

Then each line on its standard input (a JSON object: home, said, seed, task) forks a process that
does the task, and gives two lines: its id at once, and how it ended.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import lineas_core as lc
from lineas_core.scenes.bundle import read_bundle
from lineas_core.studio.jobs import slices
from lineas_core.studio.jobs.context import JobContext
from lineas_core.studio.jobs.device.priority import Priority
from lineas_core.studio.jobs.job_files import JobFiles
from lineas_core.studio.jobs.queue import JobError, Jobs
from lineas_core.studio.jobs.run import run_job
from lineas_core.studio.storage import store
from lineas_core.studio.storage.recovery.recovery import open_state
from tests.helpers.models import random_map

OWNER = "ada"
BASE = {"rate": 0.05, "batch_size": 4, "holdout": 0.25}
VARIANTS = ({"steps": 3, **BASE}, {"steps": 8, **BASE}, {"steps": 14, **BASE, "seed": 1})
MAX_ACTS = 8


def learned(smap: lc.SteeringMap) -> str:
    """A digest of what was learned, without the second in which it was."""
    return lc.SteeringMap(smap.sites).digest()


class Process:
    """What a forked process does.

    Args:
        model: loaded before the fork.
        prompts: trained on.
        bundle: a bundle's file.
        home: LINEAS_HOME.
        said: a file that is told what the process has been told.
    """

    def __init__(self, model: Any, prompts: Path, bundle: Path, home: Path, said: Path) -> None:
        self._model, self._prompts = model, lc.PromptSet.load(prompts)
        self._bundle, self._home, self._said = bundle, home, said

    def undisturbed(self) -> None:
        """Train each variant without a Studio."""
        for number, changes in enumerate(VARIANTS):
            config = lc.TrainConfig.for_model(self._model, **changes)
            self._say("plain", number, learned(lc.train(self._model, self._prompts, config).map))

    def visit(self, seed: int) -> None:
        """Queue, save, import, rename and delete at random, while jobs train, until killed."""
        jobs, library = self._open()
        dice = random.Random(seed)
        for number in range(MAX_ACTS):
            match dice.choice(("queue", "queue", "keep", "import", "prompts", "rename", "delete")):
                case "queue":
                    variant = dice.randrange(len(VARIANTS))
                    with suppress(JobError):
                        job = jobs.start(OWNER, "tiny", self._prompts, VARIANTS[variant])
                        self._say("job", job.id, variant)
                case "keep":
                    smap = random_map({"a": 64, "b": 16}, 1000 * seed + number)
                    row = library.add_map(OWNER, smap, title=f"Map {seed} {number}")
                    self._say("map", row.id, smap.digest())
                case "import":
                    for smap in read_bundle(self._bundle).maps.values():
                        self._say("map", library.add_map(OWNER, smap).id, smap.digest())
                case "prompts":
                    self._say("prompts", library.add_prompts(OWNER, self._prompts).id)
                case act:
                    rows = library.maps(OWNER, include_gallery=False)
                    rows = [row for row in rows if not row.job]
                    if rows and act == "rename":
                        library.rename(dice.choice(rows).id, OWNER, f"Renamed {number}")
                    elif len(rows) > 10:
                        gone = dice.choice(rows).id
                        self._say("gone", gone)
                        library.delete(gone, OWNER)
                        library.purge(0.0)
            time.sleep(dice.random() * 0.02)
        time.sleep(600)

    def drain(self) -> None:
        """Let all jobs end, and stop in order."""
        jobs, _ = self._open()
        while self._state.store.unfinished():
            time.sleep(0.02)
        jobs.close()
        self._state.store.close()

    def _open(self) -> tuple[Jobs, Any]:
        self._state = open_state(self._home)
        self._say("open", list(self._state.notes))
        context = JobContext(
            self._state.store,
            self._state.library,
            lambda name: self._model,
            Priority(),
            JobFiles(self._home),
        )
        jobs = Jobs(context, run_job, max_queued=3, max_per_visitor=4)
        return jobs, self._state.library

    def _say(self, *words: object) -> None:
        # What was written survives the process: only a power cut would lose it.
        with self._said.open("a") as file:
            file.write(json.dumps(words) + "\n")


def main() -> None:
    """Serve."""
    torch.set_num_threads(1)
    # So that checkpoints lie between all steps, and a job survives any number of kills.
    slices.SECONDS_BETWEEN_CHECKPOINTS, store.MAX_ATTEMPTS = 0.0, 10**6
    model = lc.load_model(sys.argv[1], device="cpu")
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                process = Process(
                    model, Path(sys.argv[2]), Path(sys.argv[3]), Path(asked["home"]),
                    Path(asked["said"]),
                )  # fmt: skip
                if asked["task"] == "visit":
                    process.visit(asked["seed"])
                else:
                    getattr(process, asked["task"])()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
