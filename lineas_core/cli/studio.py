"""`lineas studio`: the app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(studio)


def studio(
    host: Annotated[
        str | None, typer.Option(help="Address to serve on; 0.0.0.0 opens it to the network.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first free one from 7860 by default.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder of what is made; LINEAS_HOME by default.")
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the app in the browser.")
    ] = False,
) -> None:
    """Serve the app until Ctrl-C."""
    from lineas_core.studio.web.page import launch

    folder = None if home is None else home.expanduser().resolve()
    launch(folder, port, host=host, open_browser=open_browser)
