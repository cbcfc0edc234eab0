"""Tell a process that died of its work from one that was stopped or killed.

A job that kills its process three times is not started again; one whose server is restarted or
killed goes on. The two leave different traces. A fault of native code (SIGSEGV, SIGABRT, ...) is
written down by Python's fault handler. A process that the system ends because memory is short gets
SIGKILL, of which nothing can be written down, but it has noted how little was left a moment before.
Whoever is killed by somebody else leaves neither.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path

import psutil  # type: ignore[import-untyped]

# Share of the memory that is left when the system ends processes.
SHORT = 0.05
SECONDS_BETWEEN_NOTES = 0.1
_NOTE = struct.Struct("<d")
_CGROUP = Path("/sys/fs/cgroup")

log = logging.getLogger(__name__)


def died_of_itself(home: Path) -> bool:
    """Whether the last process that used the folder died of a fault, or as memory was short.

    The traces are removed, so that each counts once.
    """
    fault, memory = _traces(home)
    died = False
    with suppress(OSError):
        if text := fault.read_text(encoding="utf-8", errors="replace").strip():
            log.error("the last process ended by a fault:\n%s", text)
            died = True
        fault.unlink()
    with suppress(OSError):
        note = memory.read_bytes()
        if len(note) == _NOTE.size and _NOTE.unpack(note)[0] < SHORT:
            log.error("the last process ended when %.1f%% of the memory was left", 100 * SHORT)
            died = True
        memory.unlink()
    return died


@contextmanager
def leaving_traces(home: Path) -> Iterator[None]:
    """Within the block, leave traces in the folder for `died_of_itself`; after it, none.

    Raises:
        OSError: the folder cannot be written.
    """
    fault, memory = _traces(home)
    ended = threading.Event()
    memory.write_bytes(_NOTE.pack(1.0))
    with fault.open("w", encoding="utf-8") as told, memory.open("r+b") as file:
        faulthandler.enable(told)
        if hasattr(os, "register_at_fork"):
            # A fault of a forked process, as of ZeroGPU, is none of this one.
            os.register_at_fork(after_in_child=faulthandler.disable)
        # A mapped file keeps what was written when the process is killed, and costs no system call.
        with mmap(file.fileno(), _NOTE.size) as note:
            noting = threading.Thread(
                target=_keep_noting, args=(note, ended.wait), name="memory", daemon=True
            )
            noting.start()
            try:
                yield
            finally:
                ended.set()
                noting.join()
                faulthandler.disable()
    for trace in (fault, memory):
        trace.unlink(missing_ok=True)


def memory_left() -> float:
    """Share of the memory that can still be had, of the machine's or of this container's."""
    machine = psutil.virtual_memory()
    left = float(machine.available / machine.total)
    with suppress(OSError, ValueError, KeyError):
        # "max" where the container has no limit of its own.
        limit = int((_CGROUP / "memory.max").read_text())
        figures = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        # Files in the cache are given up before processes are ended.
        taken = int((_CGROUP / "memory.current").read_text()) - int(figures["inactive_file"])
        left = min(left, 1 - taken / limit)
    return left


def _keep_noting(note: mmap, ended: Callable[[float], bool]) -> None:
    while not ended(SECONDS_BETWEEN_NOTES):
        note[:] = _NOTE.pack(memory_left())


def _traces(home: Path) -> tuple[Path, Path]:
    return home / "fault.log", home / "memory.left"
