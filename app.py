"""Entry point of the Space and of `make app`: build the Studio and launch it."""

from lineas_core.studio.web.page import launch

if __name__ == "__main__":
    launch()
