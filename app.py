"""Entry point of the Space and of `make app`: build the Studio and launch it."""

import os

if os.environ.get("SPACES_ZERO_GPU"):
    # Pretends that there is a GPU, from here on: it refuses to come after whatever asks for one.
    import spaces  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401

from lineas_core.studio.web.page import launch

if __name__ == "__main__":
    launch()
