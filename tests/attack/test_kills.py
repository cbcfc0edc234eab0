"""The app is killed again and again while visitors train, save and import over HTTP.

What was answered is there after the next start, and no job fails for being killed with the server.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import lineas_core as lc
from lineas_core.studio.access.visitors import new_key, owner_of
from tests.helpers.app import WITHOUT_THE_EMBEDDED_MODEL, Server
from tests.helpers.models import random_map
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.thorough

# The app notes the numbers of the page's functions.
NOTING = f"""
{WITHOUT_THE_EMBEDDED_MODEL}
import json, os
from pathlib import Path

build = page.build_page

def build_and_tell(studio):
    built = build(studio)
    numbers = {{block.fn.__qualname__: n for n, block in built.fns.items() if block.fn}}
    Path(os.environ["LINEAS_HOME"], "functions.json").write_text(json.dumps(numbers))
    return built

page.build_page = build_and_tell
page.launch()
"""
VISITORS = 3
# Seconds from the start of the process, and from its first answer, to its end.
WHILE_IT_OPENS, WHILE_IT_SERVES = (0.0, 2.0), (0.2, 3.0)
MAX_STEPS = 12


@dataclass
class Visitor:
    """A key, and what the server has said of its requests."""

    key: str = field(default_factory=new_key)
    jobs: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def answers(self) -> int:
        return len(self.jobs) + len(self.sets) + len(self.digests) + self.refused.total()


class App(Server):
    """The app, and what visitors ask of it."""

    def __init__(self, folder: Path, model: Path, prompts: lc.PromptSet) -> None:
        (folder / "temporary").mkdir()
        super().__init__(folder, ("-c", NOTING), {"TMPDIR": str(folder / "temporary")})
        self._prompts, self._model = prompts, str(model)

    def ask(self, web: httpx.Client, function: str, *data: object) -> Any:
        """The answer of a function of the API; None where a limit is reached."""
        path = f"/gradio_api/call/{function}"
        joined = web.post(path, json={"data": data})
        if joined.status_code == 429:
            return None
        joined.raise_for_status()
        said = web.get(f"{path}/{joined.json()['event_id']}").text
        kind, _, value = said.partition("\ndata: ")
        if kind.endswith("complete"):
            return json.loads(value)[0]
        assert "is the limit" in value, said
        return None

    def use(self, web: httpx.Client, function: str, *data: object) -> bool:
        """Whether a function of the page answered without an error."""
        numbers = json.loads((self.home / "functions.json").read_text())
        session = new_key()
        body = {"fn_index": numbers[function], "data": data, "session_hash": session}
        web.post("/gradio_api/queue/join", json=body).raise_for_status()
        with web.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
            for line in stream.iter_lines():
                if '"process_completed"' in line:
                    return bool(json.loads(line.removeprefix("data: "))["success"])
        return False

    def visit(self, visitor: Visitor, seed: int, folder: Path, left: threading.Event) -> None:
        """Train, save and import in turn, until told to leave or the server is gone."""
        with suppress(httpx.TransportError), self.client() as web:
            for number in range(1000):
                if left.is_set():
                    return
                match (seed + number) % 3:
                    case 0:
                        job = self.ask(
                            web, "train", visitor.key, self._model, "",
                            list(self._prompts.source), list(self._prompts.target), "letters",
                            1 + (seed + number) % MAX_STEPS, "text", "lineas", "",
                        )  # fmt: skip
                        if job is None:
                            visitor.refused["train"] += 1
                        else:
                            visitor.jobs.append(job["id"])
                    case 1:
                        title = f"Set {seed} {number}"
                        lines = zip(self._prompts.source, self._prompts.target, strict=True)
                        table = {
                            "headers": ["source", "target", "note"],
                            "data": [[source, target, ""] for source, target in lines],
                            "metadata": None,
                        }
                        if self.use(
                            web, "PromptCallbacks.save", visitor.key, "text", title, "c", table
                        ):
                            visitor.sets.append(title)
                        else:
                            visitor.refused["save"] += 1
                    case _:
                        smap = random_map({"a": 8}, 1000 * seed + number)
                        path = smap.save(folder / f"{seed}-{number}.safetensors")
                        sent = web.post(
                            "/gradio_api/upload", files={"files": (path.name, path.read_bytes())}
                        )
                        sent.raise_for_status()
                        meta = {"_type": "gradio.FileData"}
                        file = {"path": sent.json()[0], "orig_name": path.name, "meta": meta}
                        if self.use(web, "SharingCallbacks.take_in", visitor.key, [file], ""):
                            visitor.digests.append(smap.digest())
                        else:
                            visitor.refused["import"] += 1

    def check(self, visitor: Visitor) -> Counter[str]:
        """What the visitor was told is there; returns the statuses of the jobs."""
        statuses: Counter[str] = Counter()
        with self.client() as web:
            listed = self.ask(web, "list_prompt_sets", visitor.key, "text")
            sets = {row["title"].removesuffix(" (yours)") for row in listed}
            jobs = [self.ask(web, "job", visitor.key, job_id) for job_id in visitor.jobs]
            maps = {row["id"] for row in self.ask(web, "list_maps", visitor.key, "")}
        for job in jobs:
            assert job.get("status") in ("queued", "running", "interrupted", "done"), job
            assert job["status"] != "done" or job["map_id"] in maps
            statuses[job["status"]] += 1
        assert set(visitor.sets) <= sets
        return statuses

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120)


@pytest.fixture
def app(tmp_path: Path, small_models: dict[str, Path], prompts: lc.PromptSet) -> Iterator[App]:
    app = App(tmp_path, small_models["llama"], prompts)
    yield app
    app.close()


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_under_traffic_nothing_that_was_answered_is_lost(
    app: App, tmp_path: Path, kills: int
) -> None:
    dice, visitors = random.Random(20261201), [Visitor() for _ in range(VISITORS)]
    for kill in range(kills):
        app.launch()
        left, visits = threading.Event(), list[threading.Thread]()
        if kill % 4 == 3:
            time.sleep(dice.uniform(*WHILE_IT_OPENS))
        else:
            app.wait()
            visits = [
                threading.Thread(
                    target=app.visit, args=(visitor, VISITORS * kill + number, tmp_path, left)
                )
                for number, visitor in enumerate(visitors)
            ]
            before = [visitor.answers for visitor in visitors]
            for visit in visits:
                visit.start()
            # Of the first start each visitor gets an answer, of every other one at least one does.
            wanted = VISITORS if kill == 0 else (kill + 1) % 2
            wait_for(
                lambda before=before, wanted=wanted: sum(
                    visitor.answers > known
                    for visitor, known in zip(visitors, before, strict=True)
                ) >= wanted
            )  # fmt: skip
            time.sleep(dice.uniform(*WHILE_IT_SERVES))
        assert app.stop(signal.SIGKILL) == -signal.SIGKILL, app.log()
        left.set()
        for visit in visits:
            visit.join()
    app.launch()
    app.wait()
    wait_for(lambda: all(set(app.check(visitor)) <= {"done"} for visitor in visitors), 600)
    assert app.stop() == 0, app.log()

    with closing(sqlite3.connect(app.home / "studio.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = db.execute("SELECT owner, id, digest FROM maps").fetchall()
    for visitor in visitors:
        own = {digest: id for owner, id, digest in kept if owner == owner_of(visitor.key)}
        assert set(visitor.digests) <= set(own)
        for digest in visitor.digests:
            path = app.home / "maps" / f"{own[digest]}.safetensors"
            assert lc.SteeringMap.load(path).digest() == digest
        print(
            f"{kills} kills: {len(visitor.jobs)} jobs, {len(visitor.sets)} sets and "
            f"{len(visitor.digests)} maps answered; refused {dict(visitor.refused)}"
        )
    for kind in ("jobs", "sets", "digests"):
        assert any(getattr(visitor, kind) for visitor in visitors), kind
