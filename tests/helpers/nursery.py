"""Processes of the app that need not import it: `nursery().start(...)` forks one that has.

Importing takes most of an app's start, and the tests start dozens. This module, run by itself,
imports, and forks for each line on its standard input.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lineas_core.system.paths import checkout

# What the app imports at its start, and when it loads its first models. None of them asks for a GPU
# or starts a thread.
IMPORTED = (
    "lineas_core.studio.web.page",
    "lineas_core.models.image.pipelines",
    "lineas_core.models.language.checkpoint",
    "transformers.models.llama.modeling_llama",
)


class Forked:
    """A process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, ended: Path) -> None:
        self.pid, self._ended = pid, ended

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        try:
            return int(self._ended.read_text())
        except FileNotFoundError:
            return None

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it takes longer.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("the app", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, how: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, how)

    def kill(self) -> None:
        """Kill it, if it still runs, and wait for its end."""
        self.send_signal(signal.SIGKILL)
        self.wait(60)


class Nursery:
    """A process that has imported the app, and forks others."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.nursery"],
            cwd=checkout(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        assert self._line() == "ready"

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Forked:
        """Run what `python ARGUMENTS` runs: a file, `-m` and a module, or `-c` and code.

        Args:
            arguments: of Python.
            environment: its variables. What libraries read when they are imported has no effect.
            log: a file that its output is appended to.
        """
        ended = log.with_name(f"{log.name}.ended")
        ended.unlink(missing_ok=True)
        asked = {"arguments": [*arguments], "environment": dict(environment), "log": str(log),
                 "ended": str(ended)}  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        return Forked(int(self._line()), ended)

    def close(self) -> None:
        """End the process; what it has forked goes on."""
        with self._process:
            self._process.kill()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@cache
def nursery() -> Nursery:
    """The nursery of this process."""
    made = Nursery()
    atexit.register(made.close)
    return made


def _run(asked: dict[str, Any]) -> None:
    """Become the process that is asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(asked["environment"])
    # Kept from the first use on, before TMPDIR was what it is now.
    tempfile.tempdir = None
    first, *rest = asked["arguments"]
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def _start(asked: dict[str, Any]) -> None:
    """Fork a parent, which forks the process, says its id, and notes how it ends."""
    if os.fork():
        return
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _run(asked)
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    whole = Path(asked["ended"])
    part = whole.with_suffix(".part")
    part.write_text(str(code))
    part.replace(whole)
    os._exit(0)


def main() -> None:
    """Serve."""
    for name in IMPORTED:
        import_module(name)
    # Parents of what is forked leave nothing to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        _start(json.loads(line))


if __name__ == "__main__":
    main()
