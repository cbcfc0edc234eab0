"""The app, stopped and killed from outside: nothing stays behind, and no job pays for it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import lineas_core as lc
from lineas_core.studio.storage.scratch import open_scratch
from lineas_core.studio.storage.store import JobRow, Store
from tests.helpers.app import WITHOUT_THE_EMBEDDED_MODEL, Server
from tests.helpers.waiting import wait_for

# The app forks a process, as ZeroGPU does, or is aborted by its training.
ACTING = f"""
{WITHOUT_THE_EMBEDDED_MODEL}
import multiprocessing, os, sys, time
from lineas_core.training.loop import TrainingLoop

act = sys.argv[1]

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
            TrainingLoop.draw = lambda *_: os.abort()
        print("temporary", self.scratch.folder, flush=True)

page.Studio = Studio
page.launch()
"""


@contextmanager
def running(folder: Path, act: str = "") -> Iterator[Server]:
    server = Server(folder, ("-c", ACTING, act), {"TMPDIR": str(folder / "temporary")})
    server.launch()
    try:
        yield server
    finally:
        server.close()


def told(server: Server) -> dict[str, str]:
    """What the app has said of itself, the latest last: name -> value."""
    lines = server.log().splitlines()
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


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
    with running(tmp_path, "fork") as server:
        server.wait()
        (Path(told(server)["temporary"]) / "uploads" / "visitors.csv").write_text("0" * 1000)
        wait_for(lambda: row(home)[:1] == ("running",) and row(home)[1] > 3)
        child = psutil.Process(int(told(server)["child"]))
        began = time.monotonic()
        assert server.stop() == 0
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
        with running(tmp_path) as server:
            server.wait()
            (Path(told(server)["temporary"]) / "uploads" / "visitors.csv").write_text("0" * 1000)
            wait_for(lambda: row(home)[0] == "running")
            server.close()
        assert [str(path) for path in ours(temporary)] == [told(server)["temporary"]], number
    with running(tmp_path) as server:
        server.wait()
        wait_for(lambda: row(home)[0] == "running")
        assert row(home)[2] <= 1
        server.stop()
    assert ours(temporary) == files_below(temporary) == []


@pytest.mark.thorough
def test_a_job_that_kills_its_process_three_times_is_given_up(
    tmp_path: Path, temporary: Path, small_models: dict[str, Path], prompts: lc.PromptSet
) -> None:
    home = tmp_path / "home"
    queue(home, small_models["llama"], prompts, 100_000)
    for _ in range(3):
        with running(tmp_path, "abort") as server:
            assert server.end() == -signal.SIGABRT
    with running(tmp_path, "abort") as server:
        server.wait()
        store = Store(home / "studio.db")
        job = store.job("job")
        store.close()
        assert job is not None
        assert job.status == "failed"
        assert "3 times" in job.message
        assert "more memory" in job.message
        server.stop()


def test_other_apps_keep_their_temporary_folders(tmp_path: Path) -> None:
    """Of folders without a lock, which earlier versions made, nobody can tell whose they are."""
    earlier = tmp_path / "lineas-downloads-abc"
    earlier.mkdir()
    with open_scratch(tmp_path) as first, open_scratch(tmp_path) as second:
        assert all(folder.is_dir() for folder in (earlier, first.folder, second.folder))
    assert list(tmp_path.iterdir()) == [earlier]
