"""What Windows does otherwise, emulated where this is another system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lineas_core as lc
from lineas_core.models.load import load_model
from lineas_core.studio.access.redaction import without_paths
from lineas_core.system.files import flush
from lineas_core.training.state import TrainState


def test_files_are_flushed_by_a_descriptor_that_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere os.fsync takes any descriptor."""
    fcntl = pytest.importorskip("fcntl")
    seen = []

    def fsync(descriptor: int) -> None:
        seen.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "file").write_bytes(b"all of it")
    flush(tmp_path / "file")
    assert seen == [os.O_RDWR]
    assert (tmp_path / "file").read_bytes() == b"all of it"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists what is mapped")
def test_what_was_read_is_not_mapped_any_more(tmp_path: Path) -> None:
    """Windows neither replaces nor deletes a file that is mapped into memory."""
    shipped = Path(lc.__file__).parent / "gallery" / "day.safetensors"
    path = tmp_path / "map.safetensors"
    path.write_bytes(shipped.read_bytes())
    smap = lc.SteeringMap.load(path)
    state = TrainState({}, dict(smap.sites and {"a": next(iter(smap.sites.values()))[0]}), (), 0.0)
    kept = state.save(tmp_path / "state.safetensors")
    read = TrainState.load(kept)
    mapped = Path("/proc/self/maps").read_text()
    assert str(path) not in mapped
    assert str(kept) not in mapped
    assert smap.support() > 0
    assert set(read.tensors) == {"a"}


@pytest.mark.parametrize("name", [r"C:\models\mine", r"models\mine", "C:/mine"])
def test_a_folder_is_told_from_a_repository(name: str) -> None:
    with pytest.raises(lc.ModelError, match=r"is not a folder with a config\.json"):
        load_model(name)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (r"C:\Users\Ann B\maps\a.safetensors is damaged", "…/a.safetensors is damaged"),
        (r"Cannot read '\\server\share\b.json'.", "Cannot read '…/b.json'."),
        ("see https://hf.co/docs/hub and a/b", "see https://hf.co/docs/hub and a/b"),
        (r"site model\.layers\.3: r'\w+\d'", r"site model\.layers\.3: r'\w+\d'"),
    ],
)
def test_paths_are_taken_out_of_messages(text: str, kept: str) -> None:
    assert without_paths(text) == kept


def test_a_pipe_gets_utf8_whatever_the_locale() -> None:
    """A pipe on Windows has the code page's encoding, in which a table has no lines."""
    done = subprocess.run(
        [sys.executable, "-m", "lineas_core", "models"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0, done.stderr
    assert "┃ title" in done.stdout.decode("utf-8")
