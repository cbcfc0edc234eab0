"""The scripts of components that draw themselves in the browser."""

from __future__ import annotations

from lineas_core.system.paths import packaged


def script(*names: str) -> str:
    """What a component runs as it loads: `elements.js`, then these files, in one scope."""
    return "".join(
        (packaged("studio") / name).read_text(encoding="utf-8") for name in ("elements.js", *names)
    )
