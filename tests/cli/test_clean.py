"""`lineas clean`: what killed apps left and what was deleted goes, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.app import app
from lineas_core.studio.storage.recovery.recovery import open_state
from lineas_core.studio.storage.scratch import PREFIX, open_scratch
from lineas_core.studio.storage.store import JobRow
from tests.helpers.models import random_map


def cleaned(*options: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["clean", "--json", *options])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: lc.PromptSet) -> dict[str, Path]:
    """A folder with what is to go, and what is to stay."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("LINEAS_HOME", str(home))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(temporary))
    state = open_state(home)
    kept = state.library.add_map("ada", random_map({"a": 100}, 0))
    deleted = state.library.add_map("ada", random_map({"a": 100}, 1))
    state.library.delete(deleted.id, "ada")
    job = state.store.add_job(JobRow("job", "ada", "m", prompts))
    state.store.transition(job.id, {"queued"}, "cancelled")
    waiting = state.store.add_job(JobRow("waiting", "ada", "m", prompts))
    checkpoints = home / "checkpoints"
    checkpoints.mkdir()
    for row in (job, waiting):
        (checkpoints / f"{row.id}.safetensors").write_bytes(b"0" * 1000)
    frames = home / "frames" / job.id
    frames.mkdir(parents=True)
    (frames / "0000001.json").write_text("{}")
    state.store.close()
    conversion = home / "models" / ".smollm2.killed"
    conversion.mkdir(parents=True)
    (conversion / "model.safetensors").write_bytes(b"0" * 5000)
    killed = subprocess.run(
        [sys.executable, "-c",
         "import os\nfrom lineas_core.studio.storage.scratch import open_scratch\n"
         "from pathlib import Path\n"
         f"with open_scratch(Path({str(temporary)!r})) as s:\n"
         "    (s.uploads / 'a').write_bytes(b'0' * 3000)\n"
         "    print(s.folder, flush=True)\n    os.kill(os.getpid(), 9)"],
        stdout=subprocess.PIPE, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    earlier = temporary / "lineas-downloads-old"
    earlier.mkdir()
    long_ago = time.time() - 100_000
    os.utime(earlier, (long_ago, long_ago))
    (temporary / "lineas-uploads-new").mkdir()
    return {
        "home": home,
        "temporary": temporary,
        "killed": Path(killed),
        "earlier": earlier,
        "conversion": conversion,
        "deleted": home / "maps" / f"{deleted.id}.safetensors",
        "kept": home / "maps" / f"{kept.id}.safetensors",
        "frames": frames,
        "checkpoint": checkpoints / "job.safetensors",
        "waiting": checkpoints / "waiting.safetensors",
    }


GOES = ("killed", "earlier", "conversion", "deleted", "frames", "checkpoint")
STAYS = ("kept", "waiting", "home", "temporary")


def test_what_nobody_needs_goes_and_is_listed_before(left: dict[str, Path]) -> None:
    said = cleaned("--dry-run", "--days", "0")
    assert {Path(each["path"]) for each in said["removed"]} == {left[name] for name in GOES}
    sizes = {Path(each["path"]): each["bytes"] for each in said["removed"]}
    assert sizes[left["killed"]] == 3000
    assert sizes[left["conversion"]] == 5000
    assert sizes[left["checkpoint"]] == 1000
    assert said["bytes"] == sum(sizes.values())
    assert all(path.exists() for path in left.values())
    assert cleaned("--days", "0") == {**said, "dry_run": False}
    assert not any(left[name].exists() for name in GOES)
    assert all(left[name].exists() for name in STAYS)
    assert (left["temporary"] / "lineas-uploads-new").exists()
    assert cleaned("--days", "0")["removed"] == []
    state = open_state(left["home"])
    assert [row.id for row in state.library.maps("ada")] == [left["kept"].stem]
    state.store.close()


def test_nothing_goes_by_its_age_before_its_time(left: dict[str, Path]) -> None:
    paths = {Path(each["path"]) for each in cleaned()["removed"]}
    assert paths == {left[name] for name in ("killed", "earlier", "conversion")}
    assert left["deleted"].exists()
    assert left["checkpoint"].exists()


def test_what_a_running_app_uses_is_left_alone(left: dict[str, Path]) -> None:
    with open_scratch(left["temporary"]) as scratch, FileLock(left["home"] / "studio.lock"):
        # Its start has removed what the killed one left.
        assert not left["killed"].exists()
        (scratch.uploads / "a").write_bytes(b"0")
        with FileLock(left["home"] / "models" / ".smollm2.lock"):
            said = cleaned("--days", "0")
        assert "An app runs" in said["note"]
        assert [Path(each["path"]) for each in said["removed"]] == [left["earlier"]]
        assert (scratch.uploads / "a").exists()
        assert scratch.folder.name.startswith(PREFIX)
    assert left["conversion"].exists()
    assert left["deleted"].exists()


def test_people_are_told_in_words(left: dict[str, Path]) -> None:
    done = CliRunner().invoke(app, ["clean", "-n"])
    assert done.exit_code == 0
    assert "unfinished conversion" in done.output
    assert "without --dry-run" in done.output
    assert left["conversion"].exists()
