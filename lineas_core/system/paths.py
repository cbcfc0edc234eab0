"""Where the files that come with the project are, in a checkout and in an installed wheel."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

# What the build copies from the top of the checkout into this folder of the wheel, pyproject.toml
# says: `assets`, `prompts`, and what a Space needs.
SHIPPED = "shipped"


def packaged(path: str = "") -> Path:
    """A file or folder inside the package, such as "metrics/concepts.toml"."""
    return Path(str(files("lineas_core"))) / path


def shipped(path: str = "") -> Path:
    """A file or folder of a checkout that the wheel has too, such as "assets/clip-emoji"."""
    installed = packaged(SHIPPED)
    return (installed if installed.is_dir() else checkout()) / path


def checkout() -> Path:
    """The folder that holds the package: of a checkout, the one with app.py in it."""
    return packaged().parent
