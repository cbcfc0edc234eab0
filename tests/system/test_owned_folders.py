"""Folders of processes that were killed are found; those of others are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lineas_core.system.owned_folders import LOCK, abandoned, owned_folder

OWNER = """
import sys, time
from pathlib import Path
from lineas_core.system.owned_folders import owned_folder
with owned_folder(Path(sys.argv[1]), "app-") as folder:
    (folder / "file").write_text("of the app")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_folder_goes_with_its_block(tmp_path: Path) -> None:
    with owned_folder(tmp_path / "new", "app-") as folder:
        assert folder.is_dir()
        assert folder.name.startswith("app-")
        (folder / "file").write_text("")
    assert list((tmp_path / "new").iterdir()) == []


def test_only_the_folder_of_a_process_that_was_killed_is_abandoned(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with (
        owned_folder(tmp_path, "app-") as own,
        owned_folder(tmp_path, "other-") as other,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        killed = Path(process.stdout.readline().strip())
        assert abandoned(tmp_path, "app-") == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (killed / "file").exists()
        for _ in range(2):
            assert abandoned(tmp_path, "app-", remove=False) == [killed]
        assert killed.exists()
        assert abandoned(tmp_path, "app-") == [killed]
        assert not killed.exists()
        assert own.exists()
        assert other.exists()
        assert abandoned(tmp_path, "app-") == []
    assert list(tmp_path.iterdir()) == []


def test_folders_without_a_lock_go_by_age_where_that_is_asked_for(tmp_path: Path) -> None:
    old, new = tmp_path / "app-old", tmp_path / "app-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "file").write_text("")
    long_ago = time.time() - 100
    for path in (old / "file", old):
        os.utime(path, (long_ago, long_ago))
    assert abandoned(tmp_path, "app-") == []
    assert abandoned(tmp_path, "app-", unlocked_after=50) == [old]
    assert not old.exists()
    assert new.exists()
    with owned_folder(tmp_path, "app-") as owned:
        assert (tmp_path / f"{owned.name}{LOCK}").exists()
        assert abandoned(tmp_path, "app-", unlocked_after=-1) == [new]
