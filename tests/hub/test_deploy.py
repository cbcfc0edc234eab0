"""Spaces, their hardware and their buckets, on a small fake Hub on the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import SpaceHardware, Volume

from lineas_core.hub.deploy import upload_space
from lineas_core.hub.errors import HubError
from lineas_core.hub.space import prepare_space
from tests.helpers.hub import CLIENT_WARNING, READER, TOKEN, Fault, SmallHub
from tests.helpers.hub_spaces import Bucket
from tests.hub.conftest import WANTED

pytestmark = pytest.mark.filterwarnings(CLIENT_WARNING)

MOUNTED = {"type": "bucket", "source": "ann/kept", "mountPath": "/data"}


def test_a_space_is_uploaded(hub: SmallHub, project: Path, tmp_path: Path) -> None:
    prepare_space(tmp_path / "space", "ann/studio", project)
    options = {"token": TOKEN, "endpoint": hub.address}
    url = upload_space(tmp_path / "space", "ann/studio", private=True, demo=True, **options)
    assert url == f"{hub.address}/spaces/ann/studio"
    space = hub.repositories["ann/studio"]
    assert (space.kind, space.private, space.variables) == ("space", True, {"DEMO_MODE": "1"})
    assert set(space.files) == WANTED
    for name in WANTED:
        assert space.files[name] == (tmp_path / "space" / name).read_bytes()
    (tmp_path / "space" / "prompts" / "a.json").unlink()
    upload_space(tmp_path / "space", "ann/studio", **options)
    assert set(space.files) == WANTED - {"prompts/a.json"}
    assert space.variables == {"DEMO_MODE": "0"}


def test_a_space_with_a_gpu_gets_no_torch_for_cpus(
    hub: SmallHub, project: Path, tmp_path: Path
) -> None:
    options = {"token": TOKEN, "endpoint": hub.address}
    prepare_space(tmp_path / "cpu", "ann/studio", project)
    upload_space(tmp_path / "cpu", "ann/studio", **options)
    before = dict(hub.repositories["ann/studio"].files)
    hub.repositories["ann/studio"].hardware = "zero-a10g"
    with pytest.raises(HubError, match="ann/studio has the hardware zero-a10g.*--hardware zero-"):
        upload_space(tmp_path / "cpu", "ann/studio", **options)
    assert hub.repositories["ann/studio"].files == before
    prepare_space(tmp_path / "gpu", "ann/studio", project, hardware=SpaceHardware.ZERO_A10G)
    upload_space(tmp_path / "gpu", "ann/studio", hardware=SpaceHardware.ZERO_A10G, **options)
    assert b"spaces==" in hub.repositories["ann/studio"].files["requirements.txt"]


def test_uploading_needs_a_login_that_may_write(hub: SmallHub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="Log in"):
        upload_space(tmp_path, "ann/studio", token=None, endpoint=hub.address)
    with pytest.raises(HubError, match="may not write"):
        upload_space(tmp_path, "bob/studio", token=READER, endpoint=hub.address)
    with pytest.raises(HubError, match="write USER/NAME"):
        upload_space(tmp_path, "studio", token=TOKEN, endpoint=hub.address)


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    prepare_space(tmp_path / "space", "ann/studio", project)
    return tmp_path / "space"


def deploy(hub: SmallHub, folder: Path, **options: Any) -> str:
    return upload_space(folder, "ann/studio", token=TOKEN, endpoint=hub.address, **options)


def test_a_space_gets_the_hardware_that_was_asked_for(hub: SmallHub, folder: Path) -> None:
    deploy(hub, folder, hardware=SpaceHardware.CPU_UPGRADE)
    space = hub.repositories["ann/studio"]
    assert space.hardware == "cpu-upgrade"
    # None is asked for: it stays. The same is asked for: no request, which would restart it.
    hub.seen.clear()
    deploy(hub, folder)
    deploy(hub, folder, hardware=SpaceHardware.CPU_UPGRADE)
    assert space.hardware == "cpu-upgrade"
    assert not [line for line in hub.seen if line.endswith("/hardware")]
    hub.seen.clear()
    deploy(hub, folder, hardware=SpaceHardware.T4_SMALL)
    assert space.hardware == "t4-small"
    order = [line for line in hub.seen if line.endswith(("/hardware", "/commit/main"))]
    assert [line.split("/")[-1] for line in order] == ["main", "hardware"]


def test_hardware_that_must_be_paid_for_says_so(hub: SmallHub, folder: Path) -> None:
    hub.fault = Fault("/api/repos/create", 402)
    with pytest.raises(HubError, match=r"paid plan.*ann/studio.*zero-a10g"):
        deploy(hub, folder, hardware=SpaceHardware.T4_SMALL)


@pytest.mark.parametrize("name", ["kept", "ann/kept"])
def test_a_bucket_is_made_and_mounted_before_the_space_starts(
    hub: SmallHub, folder: Path, name: str
) -> None:
    deploy(hub, folder, bucket=name)
    assert hub.buckets == {"ann/kept": Bucket(private=True)}
    assert hub.volumes == {"ann/studio": [MOUNTED]}
    writes = [line for line in hub.seen if line.startswith(("POST", "PUT"))]
    volumes = writes.index("PUT /api/spaces/ann/studio/volumes")
    assert volumes < next(n for n, line in enumerate(writes) if "/commit/" in line)
    # Again: nothing is mounted anew. Without: it stays.
    hub.seen.clear()
    deploy(hub, folder, bucket=name)
    deploy(hub, folder)
    assert "PUT /api/spaces/ann/studio/volumes" not in hub.seen
    assert hub.volumes == {"ann/studio": [MOUNTED]}


def test_other_volumes_stay_mounted(hub: SmallHub, folder: Path) -> None:
    deploy(hub, folder)
    model = Volume(type="model", source="ann/m", mount_path="/models", read_only=True).to_dict()
    hub.volumes["ann/studio"] = [model]
    deploy(hub, folder, bucket="kept")
    assert hub.volumes["ann/studio"] == [model, MOUNTED]


def test_a_bucket_that_would_show_or_hide_what_visitors_made_is_refused(
    hub: SmallHub, folder: Path
) -> None:
    hub.buckets["ann/open"] = Bucket(private=False)
    with pytest.raises(HubError, match="ann/open is public"):
        deploy(hub, folder, bucket="open")
    assert hub.volumes == {}
    deploy(hub, folder, bucket="kept")
    with pytest.raises(HubError, match=r"has ann/kept mounted on /data.*ann/other"):
        deploy(hub, folder, bucket="other")
    assert hub.volumes == {"ann/studio": [MOUNTED]}
    with pytest.raises(HubError, match="'ann/a b' is no repository's name"):
        deploy(hub, folder, bucket="a b")
    hub.volumes.clear()
    hub.fault = Fault("/api/buckets", 403)
    with pytest.raises(HubError, match="may not write to ann/more"):
        deploy(hub, folder, bucket="more")


def test_a_space_is_deployed_from_a_terminal(hub: SmallHub) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lineas_core", "deploy", "ann/studio", "--json", *words],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip

    done = run("--hardware", "zero-a10g", "--bucket", "kept", "--demo", "--preload", "smollm2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"url": f"{hub.address}/spaces/ann/studio"}
    space = hub.repositories["ann/studio"]
    assert (space.hardware, space.variables) == ("zero-a10g", {"DEMO_MODE": "1"})
    assert hub.volumes == {"ann/studio": [MOUNTED]}
    assert b"spaces==" in space.files["requirements.txt"]
    header = yaml.safe_load(space.files["README.md"].decode().split("---\n")[1])
    [item] = header["preload_from_hub"]
    assert item.startswith("HuggingFaceTB/SmolLM2-135M-Instruct config.json,")
    failed = run("--hardware", "h1000")
    assert failed.returncode == 1
    assert "hardware is 'h1000'" in failed.stderr
