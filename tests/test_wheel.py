"""The wheel, in an environment and a folder of its own: what the README promises works from there.

Heavy packages are those of this environment; `lineas_core` is the wheel's alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lineas_core.system.paths import SHIPPED, checkout
from lineas_core.version import __version__
from tests.helpers.server import free_port

pytestmark = pytest.mark.thorough

SERVED_WITHIN = 240


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=checkout(), check=True, capture_output=True,
    )  # fmt: skip
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def lineas(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that the wheel was installed into."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [python] = [*folder.glob("bin/python"), *folder.glob("Scripts/python.exe")]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
         "--no-index", wheel], check=True,
    )  # fmt: skip
    [site] = (path.parent for path in folder.rglob("lineas_core"))
    heavy = next(path for path in sys.path if Path(path, "torch").is_dir())
    (site / "heavy.pth").write_text(f"{heavy}\n")
    return next(python.parent.glob("lineas*"))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def run(lineas: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([lineas, *arguments], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_holds_all_that_ships_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        about = file.read(f"lineas_studio-{__version__}.dist-info/METADATA").decode()
    listed = subprocess.run(
        ["git", "ls-files", "lineas_core", "assets", "prompts"],
        cwd=checkout(), capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    tracked = {
        name if name.startswith("lineas_core/") else f"lineas_core/{SHIPPED}/{name}"
        for name in listed
    }
    assert tracked <= names
    assert {name.rpartition("/")[2] for name in names - tracked} <= {
        "app.py", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md", "requirements.lock",
        "requirements-weights.lock", "requirements-gemma-3-270m.lock",
        *(name.rpartition("/")[2] for name in untracked()),
    }  # fmt: skip
    assert wheel.stat().st_size < 100 * 10**6, "PyPI takes no larger file"
    assert re.search(r"^License-File: THIRD_PARTY_NOTICES\.md$", about, re.MULTILINE)
    ranges = requirements_of(re.findall(r"^Requires-Dist: ([^;\n]+)$", about, re.MULTILINE))
    pins = requirements_of((checkout() / "requirements.txt").read_text("utf-8").splitlines())
    # scikit-learn is there through alt-profanity-check, whose model one version of it wrote.
    assert set(pins) == {*ranges, "scikit-learn"}
    for name, pin in pins.items():
        [version] = (part.version for part in pin.specifier)
        assert name == "scikit-learn" or version in ranges[name].specifier, name


def untracked() -> list[str]:
    """New files of a checkout that is worked on, which a build takes too."""
    return subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard", "lineas_core"],
        cwd=checkout(), capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip


def requirements_of(lines: list[str]) -> dict[str, Requirement]:
    bare = [line.split(" #")[0].strip() for line in lines if line[:1] not in ("#", "-")]
    found = [Requirement(line) for line in bare if line]
    return {canonicalize_name(each.name): each for each in found}


def test_it_trains_and_steers_from_an_empty_folder(lineas: Path, empty: Path) -> None:
    trained = run(
        lineas, "train", "emoji-watercolor", "--model", "emoji-onestep", "-o",
        "watercolor.safetensors", "--set", "steps=2", "--device", "cpu", "--json",
    )  # fmt: skip
    assert json.loads(trained.stdout)["steps"] == 2
    run(lineas, "picture", "a lion", "--map", "watercolor.safetensors", "-o", "grid.png",
        "--strengths", "0,1", "--device", "cpu")  # fmt: skip
    assert (empty / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_space_is_prepared_from_the_wheel_as_from_a_checkout(lineas: Path, empty: Path) -> None:
    from lineas_core.hub.space import prepare_space

    run(lineas, "deploy", "ann/studio", "--to", "space")
    prepare_space(empty / "other", "ann/studio")
    one, other = (
        {p.relative_to(empty / name): p.read_bytes() for p in (empty / name).rglob("*.*")
         if p.is_file()} for name in ("space", "other")
    )  # fmt: skip
    assert one == other


@pytest.fixture
def served(lineas: Path, empty: Path) -> Iterator[tuple[str, Path]]:
    port = free_port()
    with (empty / "log").open("w") as log:
        process = subprocess.Popen(
            [lineas, "studio", "--port", str(port), "--home", "home"], stdout=log, stderr=log
        )
    try:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + SERVED_WITHIN
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (empty / "log").read_text()
                assert time.monotonic() < until, (empty / "log").read_text()
                time.sleep(0.5)
        yield address, empty
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.embedded
def test_it_serves_from_an_empty_folder(served: tuple[str, Path], lineas: Path) -> None:
    from gradio_client import Client

    address, empty = served
    assert re.match(r"Device: (cpu|cuda|mps)", (empty / "log").read_text())
    assert (empty / "home" / "studio.db").is_file()
    client = Client(address, verbose=False)
    me = client.predict(api_name="/new_visitor")
    maps = {row["id"] for row in client.predict(visitor=me, api_name="/list_maps")}
    assert {"football", "emoji-pixel-art"} <= maps
    found = client.predict(
        visitor=me, prompts=["a cat"], maps=["emoji-pixel-art"], strengths=[1.0], seed=0,
        api_name="/picture",
    )  # fmt: skip
    assert found["images"][0].startswith("data:image/")
    port = address.rpartition(":")[2]
    taken = subprocess.run(
        [lineas, "studio", "--port", port, "--home", "second"],
        capture_output=True, encoding="utf-8", env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert taken.returncode == 1
    assert f"port {port}, and nothing can be served there" in taken.stderr
