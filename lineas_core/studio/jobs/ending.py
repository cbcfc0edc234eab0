"""How the app's process ends: stopped in order, killed, or dead of its own work.

SIGTERM, with which containers and services stop a program, ends it in order.

A job that kills its process three times is not started again; one whose server is restarted or
killed goes on. The two leave different traces. A fault of native code (SIGSEGV, SIGABRT, ...) is
written down by Python's fault handler. A process that the system ends because memory is short gets
SIGKILL, of which nothing can be written down, but it has noted how little was left a moment before.
Whoever is killed by somebody else leaves neither.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from mmap import mmap
from pathlib import Path
from types import FrameType

import psutil  # type: ignore[import-untyped]

# Seconds that a forked process has to end by itself.
GRACE = 2.0
# Share of the memory that is left when the system ends processes.
SHORT = 0.05
SECONDS_BETWEEN_NOTES = 0.1
_NOTE = struct.Struct("<d")
_CGROUP = Path("/sys/fs/cgroup")

log = logging.getLogger(__name__)


@contextmanager
def stopping_in_order() -> Iterator[list[Callable[[], object]]]:
    """Within the block, SIGTERM is a KeyboardInterrupt, as Ctrl-C is. For the main thread only.

    Yields:
        What is called at once when the signal comes, to be added to; it must not wait.
    """
    first: list[Callable[[], object]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # A second one would cut off the end that the first one began.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for call in first:
            call()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    if hasattr(os, "register_at_fork"):
        # A process that ZeroGPU forks has nothing to bring to an end.
        os.register_at_fork(after_in_child=_end_at_once)
    try:
        yield first
    finally:
        signal.signal(signal.SIGTERM, before)


def end_forked() -> None:
    """End the processes that were forked, which would keep the ports and memory of this one."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(GRACE)
        if child.is_alive():
            child.kill()


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
            log.error(
                "the last process ended when under %.0f%% of the memory was left", 100 * SHORT
            )
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
    with ExitStack() as stack:
        for trace in (fault, memory):
            stack.callback(trace.unlink, missing_ok=True)
        faulthandler.enable(stack.enter_context(fault.open("w", encoding="utf-8")))
        stack.callback(faulthandler.disable)
        if hasattr(os, "register_at_fork"):
            # A fault of a forked process, as of ZeroGPU, is none of this one.
            os.register_at_fork(after_in_child=faulthandler.disable)
        file = stack.enter_context(memory.open("r+b"))
        # A mapped file keeps what was written when the process is killed, and costs no system call.
        note = stack.enter_context(mmap(file.fileno(), _NOTE.size))
        noting = threading.Thread(
            target=_keep_noting, args=(note, ended.wait), name="memory", daemon=True
        )
        noting.start()
        stack.callback(noting.join)
        stack.callback(ended.set)
        yield


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


def _end_at_once() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
