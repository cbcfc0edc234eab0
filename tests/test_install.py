"""What is installed where: torch's build, the disk, the pair of torch and torchvision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lineas_core.system.paths import checkout
from tests.test_supply_chain import small_wheel
from tools import install

CPU = "requirements-cpu.txt"


@pytest.mark.parametrize(
    ("asked", "platform", "driver", "index", "build", "why"),
    [
        ("auto", "linux", False, True, "cpu", "no NVIDIA driver; TORCH=cuda takes"),
        ("auto", "linux", False, False, "cuda", "cannot be reached"),
        ("auto", "linux", True, True, "cuda", "has an NVIDIA driver"),
        ("auto", "darwin", False, True, "cuda", "brings no CUDA on this platform"),
        ("cuda", "linux", False, True, "cuda", "as asked for"),
        ("cpu", "linux", True, False, "cpu", "as asked for"),
    ],
)
def test_torch_is_for_cpus_where_there_is_no_driver(
    asked: str, platform: str, driver: bool, index: bool, build: str, why: str
) -> None:
    chosen, said = install.choose(asked, platform, driver, lambda url: index)
    assert chosen == build
    assert why in said


def test_a_full_disk_is_told_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = type("Usage", (), {"free": 3_200_000_000})
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(install.subprocess, "run", lambda *a, **k: pytest.fail("installed"))
    assert install.main(["cpu"]) == 1
    assert "3.2 GB are free in" in capsys.readouterr().err
    assert install.main(["cuda"]) == 1
    assert "take torch for CPUs with TORCH=cpu" in capsys.readouterr().err


def test_a_failed_install_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 3)
    monkeypatch.setattr(install.subprocess, "run", lambda *a, **k: done)
    monkeypatch.setattr(install, "lacks_room", lambda *a: "")
    assert install.main(["cuda"]) == 3


@pytest.mark.parametrize("failing", ["-m pip install --disable-pip-version-check --quiet", "-m uv"])
def test_pip_installs_where_uv_cannot(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(" ".join(command[1:]))
        return subprocess.CompletedProcess(command, int(ran[-1].startswith(failing)))

    monkeypatch.setattr(install.subprocess, "run", run)
    assert install.install(["-r", "wanted.txt"]) == 0
    assert ran[-1] == "-m pip install --disable-pip-version-check -r wanted.txt"


def test_pip_takes_torch_and_torchvision_of_one_build(tmp_path: Path) -> None:
    """Also where one folder has both builds, and an older pair beside them."""
    lines = [
        line.split(" #")[0].strip()
        for name in ("requirements.txt", CPU)
        for line in (checkout() / name).read_text("utf-8").splitlines()
    ]
    pins = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    for pin in pins:
        [version] = (part.version for part in pin.specifier)
        small_wheel(tmp_path, version, pin.name)
    small_wheel(tmp_path, "2.13.0+cpu", "torch")
    small_wheel(tmp_path, "0.28.0", "torchvision")
    plain, cpu = tmp_path / "requirements.txt", tmp_path / CPU
    plain.write_text((checkout() / plain.name).read_text("utf-8"))
    text = (checkout() / CPU).read_text("utf-8").splitlines()
    cpu.write_text("\n".join(line for line in text if not line.startswith("--extra-index-url")))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "--quiet",
         "--report", "-", "--find-links", tmp_path, "--target", tmp_path / "t", "-r", cpu],
        capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [row["metadata"] for row in json.loads(done.stdout)["install"]]
    chosen = {row["name"]: row["version"] for row in rows}
    assert len(chosen) > 15
    assert (chosen["torch"], chosen["torchvision"]) == ("2.15.0+cpu", "0.29.2+cpu")
