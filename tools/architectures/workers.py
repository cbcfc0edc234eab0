"""Each family in a process of its own, so that a crash or a hang is a row and not the end."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from tools.architectures.row import Cell, Row

SECONDS = 180.0
MAX_PROCESSES = 2
# A server that has imported torch and transformers once, which takes seconds, and forks.
_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_processes = multiprocessing.get_context(_START)


def check_all(families: Sequence[str], processes: int, seconds: float = SECONDS) -> Iterator[Row]:
    """The rows of the families, in their order.

    Args:
        families: model types.
        processes: 1 or 2; families that run at once.
        seconds: time limit of a family.
    """
    if _START == "forkserver":
        _processes.set_forkserver_preload(["tools.architectures.checks"])
    with ThreadPoolExecutor(min(processes, MAX_PROCESSES)) as pool:
        yield from pool.map(lambda family: _isolated(family, seconds), families)


def _isolated(family: str, seconds: float) -> Row:
    ours, theirs = _processes.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = _processes.Process(target=_work, args=(family, folder, theirs))
        process.start()
        theirs.close()
        reason = f"took longer than {seconds:g} s"
        row: Row | None = None
        try:
            if ours.poll(seconds):
                row = ours.recv()
        except EOFError:
            process.join()
            reason = f"ended its process with exit code {process.exitcode}"
        process.kill()
        process.join()
    return row or Row(family, {"loads": Cell("fails", reason)})


def _work(family: str, folder: str, to: Connection) -> None:
    import torch
    import transformers

    from tools.architectures.checks import check

    # What transformers prints is not a row.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # As many threads as the parent's would wait for one another, and sum in another order.
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    to.send(check(family, Path(folder)))
