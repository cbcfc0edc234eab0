"""What a process that died left behind: of a fault, of short memory, or of a kill."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lineas_core.studio.jobs.ending import died_of_itself, memory_left

DYING = """
import ctypes, os, signal, sys, time
from pathlib import Path
from lineas_core.studio.jobs import ending
if sys.argv[2] == "short memory":
    # As a machine whose memory is taken by the model, up to the moment of the kill.
    ending.memory_left = lambda: 0.01
with ending.leaving_traces(Path(sys.argv[1])):
    time.sleep(0.3)
    if sys.argv[2] == "abort":
        os.abort()
    if sys.argv[2] == "fault":
        ctypes.string_at(0)
    if sys.argv[2] == "fault of a forked process":
        child = os.fork()
        if not child:
            ctypes.string_at(0)
        os.waitpid(child, 0)
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] != "end":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("how", "status", "itself"),
    [
        ("abort", -signal.SIGABRT, True),
        ("fault", -signal.SIGSEGV, True),
        ("short memory", -signal.SIGKILL, True),
        ("killed", -signal.SIGKILL, False),
        ("fault of a forked process", -signal.SIGKILL, False),
        ("end", 0, False),
    ],
)
def test_a_death_by_its_own_is_told_from_a_kill(
    tmp_path: Path, how: str, status: int, itself: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), how], capture_output=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert died_of_itself(tmp_path) is itself
    # Each counts once.
    assert died_of_itself(tmp_path) is False
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_no_process_used_has_no_dead(tmp_path: Path) -> None:
    assert died_of_itself(tmp_path) is False
    (tmp_path / "memory.left").write_bytes(struct.pack("<d", 0.5)[:3])
    assert died_of_itself(tmp_path) is False


def test_the_memory_left_is_no_more_than_the_machine_has() -> None:
    machine = psutil.virtual_memory()
    assert 0 < memory_left() <= machine.available / machine.total + 0.02
