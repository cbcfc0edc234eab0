"""Paths of the files that ship with the project, in a checkout or an installed wheel."""

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
    """The folder that contains the package; in a checkout, the one with app.py."""
    return packaged().parent
