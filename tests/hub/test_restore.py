"""The steps of docs/hosting.md that restore what a bucket holds, each as it is written there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from huggingface_hub import HfApi

import lineas_core as lc
from lineas_core.studio.storage.recovery.backups import backups
from lineas_core.system.paths import checkout
from tests.browser.parts import Server, wait_for
from tests.helpers.hub import TOKEN, Repository, SmallHub
from tests.helpers.hub_spaces import Bucket
from tests.studio.storage.recovery.test_recovery import rows_of

pytestmark = pytest.mark.thorough

HF = Path(sys.executable).parent / "hf"
RECIPE = (checkout() / "docs" / "hosting.md").read_text("utf-8").split("### Restore")[1]
COMMANDS = re.findall(r"^    (.+)", RECIPE.split("\n## ")[0], re.M)


@pytest.fixture
def bucket(hub: SmallHub, tmp_path: Path) -> Path:
    """A bucket, and the folder that it is mounted on."""
    folder = tmp_path / "data"
    folder.mkdir()
    hub.buckets["ann/kept"] = Bucket(private=True, folder=folder, xet=tmp_path / "xet")
    hub.repositories["ann/studio"] = Repository("space", private=False)
    return folder


@pytest.fixture
def app(bucket: Path, tmp_path: Path) -> Iterator[Server]:
    """The app as a Space runs it, whose disk is empty at each start."""
    server = Server(tmp_path, environment={"LINEAS_BUCKET": str(bucket)})
    yield server
    assert "Traceback" not in server.log()


def hf(hub: SmallHub, command: str, folder: Path | None = None, **names: str) -> str:
    """Run a command of the recipe in a folder, with the names that are meant."""
    names = {"USER/SPACE": "ann/studio", "USER/NAME": "ann/kept", **names}
    for word, name in names.items():
        command = command.replace(word, name)
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_OFFLINE": "0", "COLUMNS": "200"}
    done = subprocess.run(
        [HF, *shlex.split(command)[1:]],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(app: Server, visitor: str, model: str, prompts: lc.PromptSet) -> dict[str, Any]:
    """Train a map, and wait until the job has ended."""
    client = Client(app.url, verbose=False)
    asked = (visitor, model, "", prompts.source, prompts.target, "letters", 2)
    job = client.predict(*asked, api_name="/train")

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = client.predict(visitor, job["id"], api_name="/job")
        return found if found["status"] in ("done", "failed") else None

    done: dict[str, Any] = wait_for(ended)
    assert done["status"] == "done", done["message"]
    return done


def test_each_step_of_going_back_and_going_on(
    app: Server,
    hub: SmallHub,
    bucket: Path,
    tmp_path: Path,
    small_models: dict[str, Path],
    prompts: lc.PromptSet,
) -> None:
    model = str(small_models["llama"])
    app.start()
    visitor = Client(app.url, verbose=False).predict(api_name="/new_visitor")
    first = train(app, visitor, model, prompts)
    # As a Space is stopped; what happened within the last minute is copied.
    app.stop()
    app.wipe()
    app.start()
    second = train(app, visitor, model, prompts)

    pause, list_backups, remove, restart, sync, go_on = COMMANDS
    hf(hub, pause)
    assert hub.stages["ann/studio"] == "PAUSED"
    app.stop()
    found = backups(bucket / "backups")
    listed = hf(hub, list_backups)
    assert all(path.name in listed for path in found)
    newer = [path for path in found if second["id"] in rows_of(path)["jobs"]]
    assert newer
    assert newer == found[: len(newer)] != found
    for path in newer:
        hf(hub, remove, **{"studio-000042-2026-11-30.db": path.name})
        assert not path.exists()
    hf(hub, restart)
    assert hub.stages["ann/studio"] == "RUNNING"
    app.wipe()
    app.start()
    client = Client(app.url, verbose=False)
    assert client.predict(visitor, first["id"], api_name="/job")["status"] == "done"
    assert client.predict(visitor, second["id"], api_name="/job") == {}
    maps = {row["id"] for row in client.predict(visitor, api_name="/list_maps")}
    assert {first["map_id"], second["map_id"]} <= maps
    hf(hub, pause)
    app.stop()

    # The mount has given them to the Hub, from which they are fetched.
    files = [(path, name) for name, path in hub.buckets["ann/kept"].files().items()]
    HfApi(endpoint=hub.address, token=TOKEN).batch_bucket_files("ann/kept", add=files)
    hf(hub, sync, tmp_path)
    copies = tmp_path / sync.split()[-1]
    assert {(copies / name).read_bytes() == path.read_bytes() for path, name in files} == {True}
    words = go_on.split()
    assert words[-2:] == ["lineas", "studio"]
    variables = dict(word.split("=") for word in words[:-2])
    (tmp_path / "elsewhere").mkdir()
    other = Server(
        tmp_path / "elsewhere",
        ("-m", "lineas_core", "studio"),
        {name: str(tmp_path / folder) for name, folder in variables.items()},
    )
    other.start()
    client = Client(other.url, verbose=False)
    assert maps <= {row["id"] for row in client.predict(visitor, api_name="/list_maps")}
    other.stop()
    assert (tmp_path / variables["LINEAS_HOME"] / "studio.db").exists()
