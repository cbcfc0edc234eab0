"""Scripts of the components that render in JavaScript."""

from __future__ import annotations

from lineas_core.system.paths import packaged


def script(*names: str) -> str:
    """The script that a component runs on load: `elements.js`, then these files, in one scope.

    Args:
        names: file names relative to the folder studio, such as "rack/rack.js".
    """
    paths = (packaged(f"studio/{name}") for name in ("components/elements.js", *names))
    return "".join(path.read_text(encoding="utf-8") for path in paths)
