"""The app in a process of its own, as users start it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from lineas_core.system.home import lineas_home
from lineas_core.system.paths import checkout
from tests.helpers.nursery import Forked, nursery
from tests.helpers.server import free_port
from tests.helpers.waiting import SECONDS, wait_for

# What Gradio's sse_stream (routes.py) logs of a stream whose page has gone before it began.
GONE = re.compile(
    r"Traceback \(most recent call last\):\n(?:(?!Traceback \().*\n)*.*in sse_stream\n"
    r"(?:(?!Traceback \().*\n)*fastapi\.exceptions\.HTTPException: 404: Not Found\n"
    r"(?:(?!Traceback \().*\n)*Traceback \(.*\n(?:(?!Traceback \().*\n)*"
    r"RuntimeError: Caught handled exception, but response already started\.\n"
)
# Run by `-c`: the app without the embedded language model, on one thread.
WITHOUT_THE_EMBEDDED_MODEL = """
import torch
from lineas_core.studio.jobs.device import preparation
from lineas_core.studio.web import page

preparation.needs_converting = lambda *_: False
torch.set_num_threads(1)
"""


class Server:
    """The app as users start it, with a home of its own and the model that is converted already.

    Args:
        folder: that its home and its log are put in.
        run: arguments of Python that start it.
        environment: variables to set.
        fresh: import everything anew, as variables need that libraries read on import.
    """

    def __init__(
        self,
        folder: Path,
        run: Sequence[str] = ("app.py",),
        environment: Mapping[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self._run, self._environment, self._fresh = run, environment or {}, fresh
        self.home, self._log = folder / "home", folder / "log"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | Forked | None = None

    def start(self) -> None:
        """Start it, and wait until the page answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        self.home.mkdir(parents=True, exist_ok=True)
        converted, link = lineas_home() / "models", self.home / "models"
        if converted.is_dir() and not link.exists():
            link.symlink_to(converted)
        environment = {
            **os.environ,
            "LINEAS_HOME": str(self.home),
            "GRADIO_SERVER_PORT": str(self._port),
            **self._environment,
        }
        if self._fresh:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, *self._run],
                    cwd=checkout(),
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
        else:
            self._process = nursery().start(self._run, environment, self._log)

    def wait(self) -> None:
        """Wait until the page answers."""
        wait_for(self._answers)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; returns its exit status."""
        assert self._process
        self._process.send_signal(how)
        return self.end()

    def end(self) -> int:
        """Wait for its end, and kill it if that does not come; returns its exit status."""
        assert self._process
        try:
            return self._process.wait(timeout=SECONDS)
        finally:
            self._process.kill()

    def close(self) -> None:
        """Kill it, if it was started and still runs."""
        if self._process:
            self._process.kill()

    def wipe(self) -> None:
        """Remove all that it keeps, but for the model that it converted."""
        shutil.rmtree(self.home)

    def log(self) -> str:
        """What it has written, but for streams whose page has gone."""
        return GONE.sub("", self._log.read_text("utf-8", errors="replace"))

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log()
        try:
            return httpx.get(f"{self.url}/config", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
