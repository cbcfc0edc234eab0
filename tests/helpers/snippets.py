"""Runs the Python that the app gives people to copy."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path

import torch

from lineas_core.system.paths import checkout


def run(code: str, folder: Path) -> str:
    """Run the code in its own process and return what it prints."""
    environment = {
        "PYTHONPATH": str(checkout()), "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8",
        # As many threads as here: a sum over others may round a pixel to its neighbour.
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_here(code: str, folder: Path) -> str:
    """Run the code in this process, which has the library's imports behind it."""
    out = io.StringIO()
    with chdir(folder), redirect_stdout(out):
        exec(code, {"__name__": "__main__"})
    return out.getvalue()
