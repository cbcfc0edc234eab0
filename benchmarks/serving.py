"""Start the app as users do, in its own process and folder, to measure it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from lineas_core.system.home import lineas_home

ROOT = Path(__file__).resolve().parents[1]
MAX_SECONDS_TO_START = 120.0


@dataclass(frozen=True)
class Server:
    """A running app.

    Attributes:
        url: of its page.
        process: the server process.
        seconds: from the start of the process to the first response.
        home: its LINEAS_HOME.
            Its temporary files are in there too, uploads and downloads among them.
    """

    url: str
    process: psutil.Popen
    seconds: float
    home: Path

    @property
    def mebibytes(self) -> float:
        """Resident memory of the process and its children."""
        family = [self.process, *self.process.children(recursive=True)]
        return float(sum(member.memory_info().rss for member in family)) / 2**20


@contextmanager
def serving(**environment: str) -> Iterator[Server]:
    """Start app.py on a free port with an empty LINEAS_HOME; stop it at the end.

    Args:
        environment: variables in addition to those of this process.

    Raises:
        RuntimeError: it exited, or did not respond in time; the message contains its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="lineas-benchmark-") as folder:
        home, log = Path(folder), Path(folder) / "log"
        converted = lineas_home() / "models"
        if converted.is_dir():
            (home / "models").symlink_to(converted)
        temporary = home / "temporary"
        temporary.mkdir()
        variables = {
            "LINEAS_HOME": folder,
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(temporary),
            **environment,
        }
        with log.open("wb") as file:
            began = time.perf_counter()
            process = psutil.Popen(
                [sys.executable, "app.py"],
                cwd=ROOT,
                env={**os.environ, **variables},
                stdout=file,
                stderr=file,
            )
            try:
                while not _answers(url):
                    if process.poll() is not None or (
                        time.perf_counter() - began > MAX_SECONDS_TO_START
                    ):
                        raise RuntimeError(f"app.py does not serve {url}:\n{log.read_text()}")
                    time.sleep(0.01)
                yield Server(url, process, time.perf_counter() - began, home)
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
