"""ZeroGPU's scheduler, for the real `spaces` package, and processes that run under the package.

What the package does to the card itself cannot be done without one: its `init` and `move`, which
make the first call of CUDA in a lent process and copy weights to it, do nothing here.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, urlsplit

from lineas_core.system.paths import checkout

WITHOUT_A_CARD = """
import runpy, sys
import spaces.zero.torch

for name in ("init", "move"):
    assert callable(getattr(spaces.zero.torch, name))
    setattr(spaces.zero.torch, name, lambda *args, **kwargs: None)
"""
APP = f"{WITHOUT_A_CARD}\nrunpy.run_path('app.py', run_name='__main__')"


class Scheduler(ThreadingHTTPServer):
    """Lends a GPU to every call, unless told not to.

    Attributes:
        calls: the path and the parameters of each request.
        refusal: the answer to `/schedule` in place of a GPU, if any: a status and its JSON.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.refusal: tuple[int, dict[str, object]] | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What ZeroGPU sets."""
        address = f"http://127.0.0.1:{self.server_port}"
        return {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": address}

    def count(self) -> Counter[str]:
        """How often each path was called."""
        return Counter(path for path, _ in self.calls)

    def asked(self, parameter: str) -> list[str | None]:
        """A parameter of each call that asked for a GPU."""
        return [asked.get(parameter) for path, asked in self.calls if path == "/schedule"]


class Handler(BaseHTTPRequestHandler):
    server: Scheduler

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        calls = self.server.calls
        calls.append((url.path, dict(parse_qsl(url.query))))
        status, answer = 200, dict[str, object]()
        if url.path == "/schedule":
            lent = {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "token"}
            status, answer = self.server.refusal or (200, {**lent, "allowToken": str(len(calls))})
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def start(
    code: str,
    scheduler: Scheduler,
    home: Path,
    *args: str,
    output: IO[bytes],
) -> subprocess.Popen[bytes]:
    """Run Python code under the real package, in a process of its own, with a home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    settings = {"HOME": str(home), "LINEAS_HOME": str(home), **scheduler.environment}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=checkout(),
        env={**os.environ, **settings},
        stdout=output,
        stderr=output,
    )


def token_of(name: str) -> str:
    """A token as Spaces' proxy puts it into the header X-IP-Token, unsigned."""
    return ".".join(map(_encoded, ({"alg": "none"}, {"user": name}, {})))


def _encoded(part: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def names_of(tokens: Sequence[str | None]) -> list[str | None]:
    """Whom calls are charged to: the name in each token."""
    parts = [token and token.split(".")[1] for token in tokens]
    return [part and json.loads(base64.urlsafe_b64decode(f"{part}=="))["user"] for part in parts]
