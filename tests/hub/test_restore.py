"""The steps of docs/hosting.md that restore what a bucket holds, each as it is written there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gradio_client import Client
from huggingface_hub import HfApi

import lineas_core as lc
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.storage.recovery.backups import backups
from lineas_core.system.paths import checkout
from tests.helpers.app import Server
from tests.helpers.hub import TOKEN, Repository, SmallHub
from tests.helpers.hub_spaces import Bucket
from tests.helpers.jobs import CHANGES
from tests.helpers.studio import ANN, finished
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


@contextmanager
def running(server: Server) -> Iterator[Client]:
    """The app as a process, and a client of it; stopped as a Space is."""
    try:
        server.start()
        yield Client(server.url, verbose=False)
    finally:
        server.stop(signal.SIGTERM)
    assert "Traceback" not in server.log()


@contextmanager
def opened(home: Path, bucket: Path) -> Iterator[Studio]:
    """The app without its page."""
    studio = Studio(Settings(home=home, bucket=bucket), environment={})
    try:
        yield studio
    finally:
        studio.close()


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


def test_each_step_of_going_back_and_going_on(
    hub: SmallHub,
    bucket: Path,
    tmp_path: Path,
    small_models: dict[str, Path],
    prompts: lc.PromptSet,
) -> None:
    model, ann = str(small_models["llama"]), owner_of(ANN)
    with opened(tmp_path / "first", bucket) as studio:
        kept = studio.library.add_prompts(ann, prompts)
        first = finished(studio, studio.train(ann, model, prompts, CHANGES).id, ann)
    # The disk of a Space is another one after each restart.
    with opened(tmp_path / "second", bucket) as studio:
        studio.library.delete_prompts(kept.id, ann)
        second = finished(studio, studio.train(ann, model, prompts, CHANGES).id, ann)

    pause, list_backups, remove, restart, sync, go_on = COMMANDS
    hf(hub, pause)
    assert hub.stages["ann/studio"] == "PAUSED"
    found = backups(bucket / "backups")
    listed = hf(hub, list_backups)
    assert all(path.name in listed for path in found)
    newer = [path for path in found if second.id in rows_of(path)["jobs"]]
    assert newer
    assert newer == found[: len(newer)] != found
    for path in newer:
        hf(hub, remove, **{"studio-000042-2026-11-30.db": path.name})
        assert not path.exists()
    hf(hub, restart)
    assert hub.stages["ann/studio"] == "RUNNING"
    with running(Server(tmp_path, environment={"LINEAS_BUCKET": str(bucket)})) as client:
        assert client.predict(ANN, first.id, api_name="/job")["status"] == "done"
        assert client.predict(ANN, second.id, api_name="/job") == {}
        maps = {row["id"] for row in client.predict(ANN, api_name="/list_maps")}
        assert {first.map_id, second.map_id} <= maps
        sets = {row["id"] for row in client.predict(ANN, api_name="/list_prompt_sets")}
        assert any(kept.id in name for name in sets)
        asked = (ANN, model, "", prompts.source, prompts.target, "letters", 2)
        last = client.predict(*asked, api_name="/train")
    # Stopped at once, it has copied what happened just before.
    assert last["id"] in rows_of(backups(bucket / "backups")[0])["jobs"]

    # The mount has given the files to the Hub, from which they are fetched.
    files = [(path, name) for name, path in hub.buckets["ann/kept"].files().items()]
    HfApi(endpoint=hub.address, token=TOKEN).batch_bucket_files("ann/kept", add=files)
    hf(hub, sync, tmp_path)
    copies = tmp_path / sync.split()[-1]
    assert all((copies / name).read_bytes() == path.read_bytes() for path, name in files)
    words = go_on.split()
    assert words[-2:] == ["lineas", "studio"]
    variables = dict(word.split("=") for word in words[:-2])
    (tmp_path / "elsewhere").mkdir()
    other = Server(
        tmp_path / "elsewhere",
        ("-m", "lineas_core", "studio"),
        {name: str(tmp_path / folder) for name, folder in variables.items()},
    )
    with running(other) as client:
        assert maps <= {row["id"] for row in client.predict(ANN, api_name="/list_maps")}
        assert client.predict(ANN, last["id"], api_name="/job")["id"] == last["id"]
    assert (tmp_path / variables["LINEAS_HOME"] / "studio.db").exists()
