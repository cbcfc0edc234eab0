"""The scripts of components that draw themselves in the browser."""

from __future__ import annotations

from lineas_core.system.paths import packaged


def script(*names: str) -> str:
    """What a component runs as it loads: `elements.js`, then these files, in one scope.

    Args:
        names: of files, from the folder studio, such as "rack/rack.js".
    """
    paths = (packaged(f"studio/{name}") for name in ("components/elements.js", *names))
    return "".join(path.read_text(encoding="utf-8") for path in paths)
