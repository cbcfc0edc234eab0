"""The scripts of components that draw themselves in the browser."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def script(*names: str) -> str:
    """What a component runs as it loads: `elements.js`, then these files, in one scope."""
    return "".join((HERE / name).read_text(encoding="utf-8") for name in ("elements.js", *names))
