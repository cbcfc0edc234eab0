"""The app, stopped and killed from outside: nothing stays behind, and no job pays for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

import lineas_core as lc
from lineas_core.studio.storage.scratch import open_scratch
from lineas_core.studio.storage.store import JobRow, Store
from tests.helpers.jobs import wait_for
from tests.helpers.nursery import Forked, nursery
from tests.helpers.server import free_port

# Serves the app as `lineas studio` does, on a folder without the embedded model, and forks a
# process as ZeroGPU does. Trains at most one step, so that there is no checkpoint.
SERVER = """
import multiprocessing, sys, threading, time
from pathlib import Path
import torch
from lineas_core.studio.jobs.device import preparation
from lineas_core.studio.web import page

preparation.needs_converting = lambda *_: False
torch.set_num_threads(1)
home, port, act = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def forked():
    time.sleep(600)

class Studio(page.Studio):
    def __init__(self, *args):
        super().__init__(*args)
        if act == "fork":
            child = multiprocessing.get_context("fork").Process(target=forked, daemon=True)
            child.start()
            print("child", child.pid, flush=True)
        if act == "abort":
            import os
            from lineas_core.training.loop import TrainingLoop
            TrainingLoop.draw = lambda *_: os.abort()
        print("temporary", self.scratch.folder, flush=True)

page.Studio = Studio
page.launch(home, port)
"""


class Server:
    """The app in a process of its own."""

    def __init__(self, process: Forked, log: Path, port: int) -> None:
        self.process, self._log, self._port = process, log, port

    @property
    def told(self) -> dict[str, str]:
        """What it has said of itself: name -> value."""
        lines = self._log.read_text("utf-8", errors="replace").splitlines()
        return {name: value for name, _, value in (line.partition(" ") for line in lines)}

    def wait(self) -> None:
        """Wait until it serves."""

        def served() -> bool:
            assert self.process.poll() is None, self._log.read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{self._port}/config").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(served)


@contextmanager
def running(home: Path, temporary: Path, act: str = "") -> Iterator[Server]:
    port = free_port()
    environment = {**os.environ, "TMPDIR": str(temporary), "GRADIO_ANALYTICS_ENABLED": "False"}
    environment.pop("GRADIO_TEMP_DIR", None)
    log = temporary.with_name("log")
    log.unlink(missing_ok=True)
    process = nursery().start(("-c", SERVER, str(home), str(port), act), environment, log)
    try:
        yield Server(process, log, port)
    finally:
        process.kill()


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def ours(temporary: Path) -> list[Path]:
    """Folders in it, but for one that Gradio makes when it starts, and keeps nothing in."""
    return [path for path in temporary.iterdir() if path.is_dir() and path.name != "gradio"]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def queue(home: Path, model: Path, prompts: lc.PromptSet, steps: int) -> str:
    """Queue a job while no app runs."""
    home.mkdir(exist_ok=True)
    store = Store(home / "studio.db")
    changes = {"steps": steps, "rate": 0.05, "batch_size": 4, "holdout": 0.25}
    job = store.add_job(JobRow("job", "ada", str(model), prompts, changes=changes, steps=steps))
    store.close()
    return job.id


def row(home: Path) -> tuple[str, int, int, int]:
    store = Store(home / "studio.db")
    job = store.job("job")
    store.close()
    assert job is not None
    return job.status, job.step, job.attempts, job.interruptions


@pytest.mark.thorough
def test_sigterm_ends_the_app_in_order(
    tmp_path: Path, temporary: Path, small_models: dict[str, Path], prompts: lc.PromptSet
) -> None:
    home = tmp_path / "home"
    queue(home, small_models["llama"], prompts, 100_000)
    with running(home, temporary, "fork") as server:
        server.wait()
        (Path(server.told["temporary"]) / "uploads" / "visitors.csv").write_text("0" * 1000)
        wait_for(lambda: row(home)[:1] == ("running",) and row(home)[1] > 3)
        child = psutil.Process(int(server.told["child"]))
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
        print(f"stopped in {time.monotonic() - began:.1f} s")
        assert not child.is_running()
    assert ours(temporary) == files_below(temporary) == []
    status, step, attempts, interruptions = row(home)
    assert (status, attempts, interruptions) == ("queued", 0, 0)
    assert step > 3
    assert (home / "checkpoints" / "job.safetensors").exists()
    assert not (home / "fault.log").exists()


@pytest.mark.thorough
def test_killed_again_and_again_a_job_does_not_fail_and_its_files_do_not_pile_up(
    tmp_path: Path, temporary: Path, small_models: dict[str, Path], prompts: lc.PromptSet
) -> None:
    home = tmp_path / "home"
    queue(home, small_models["llama"], prompts, 100_000)
    for number in range(4):
        # Without a checkpoint each time, which would reset the counts.
        for file in (home / "checkpoints").glob("*.safetensors"):
            file.unlink()
        with running(home, temporary) as server:
            server.wait()
            (Path(server.told["temporary"]) / "uploads" / "visitors.csv").write_text("0" * 1000)
            wait_for(lambda: row(home)[0] == "running")
            server.process.kill()
        assert [str(path) for path in ours(temporary)] == [server.told["temporary"]], number
    with running(home, temporary) as server:
        server.wait()
        wait_for(lambda: row(home)[0] == "running")
        assert row(home)[2] <= 1
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(120)
    assert ours(temporary) == files_below(temporary) == []


@pytest.mark.thorough
def test_a_job_that_kills_its_process_three_times_is_given_up(
    tmp_path: Path, temporary: Path, small_models: dict[str, Path], prompts: lc.PromptSet
) -> None:
    home = tmp_path / "home"
    queue(home, small_models["llama"], prompts, 100_000)
    for _ in range(3):
        with running(home, temporary, "abort") as server:
            assert server.process.wait(120) == -signal.SIGABRT
    with running(home, temporary, "abort") as server:
        server.wait()
        store = Store(home / "studio.db")
        job = store.job("job")
        store.close()
        assert job is not None
        assert job.status == "failed"
        assert "3 times" in job.message
        assert "more memory" in job.message
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(120)


def test_other_apps_keep_their_temporary_folders(tmp_path: Path) -> None:
    """Of folders without a lock, which earlier versions made, nobody can tell whose they are."""
    earlier = tmp_path / "lineas-downloads-abc"
    earlier.mkdir()
    with open_scratch(tmp_path) as first, open_scratch(tmp_path) as second:
        assert all(folder.is_dir() for folder in (earlier, first.folder, second.folder))
    assert list(tmp_path.iterdir()) == [earlier]
