"""`lineas serve | studio`: a model with maps for clients of OpenAI's API, and the app."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineas_core.cli.options import Device, FixedMapsOrNone, fixed_maps, load_text, split_spec
from lineas_core.cli.terminal import console, plain
from lineas_core.errors import ConfigError

if TYPE_CHECKING:
    from lineas_core.maps.steering_map import SteeringMap

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (serve, studio):
        app.command()(command)


def serve(
    model: Annotated[str, typer.Argument(help="Short name, folder or hub id.")],
    maps: FixedMapsOrNone = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on; 0.0.0.0 opens it to the network.")
    ] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str,
        typer.Option(envvar="LINEAS_API_KEY", help="What clients must send; none by default."),
    ] = "",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Answers of several requests that are written at once, even if rounding then "
            "changes a text; by default 8 in float32 and 1 in lower precision.",
        ),
    ] = None,
    device: Device = "auto",
    hosts: Annotated[
        str,
        typer.Option(
            envvar="LINEAS_HOSTS",
            help="Names that the server is reached by, such as a proxy's, separated by commas.",
        ),
    ] = "",
) -> None:
    """Serve a model with maps at /v1, for clients of OpenAI's API, until Ctrl-C.

    A request without `steering` gets all maps, at the strengths that they are given here. With
    `steering` it names maps by their files' names, without folder and ending.
    """
    import uvicorn

    from lineas_core.serving.host import OneModel
    from lineas_core.serving.hosts import Hosts
    from lineas_core.serving.routes import application

    named, answered = named_maps(maps or []), Hosts([host, *hosts.split(",")])
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise ConfigError(
            f"host is {host!r} and port is {port}, and nothing can be served there: it is in use, "
            "or not an address of this machine. Choose others."
        ) from error
    with listening:
        served = OneModel(load_text(model, device), named, key=api_key, max_rows=batch)
        address = f"http://{host}:{listening.getsockname()[1]}/v1"
        console.print(f"{plain(served.name)} is served at {address}", highlight=False)
        if not api_key and host not in LOOPBACK:
            console.print("anybody who reaches this address can use it; --api-key asks for a key")
        config = uvicorn.Config(application(served, answered), log_level="warning", ws="none")
        uvicorn.Server(config).run(sockets=[listening])


def named_maps(specs: list[str]) -> dict[str, tuple[SteeringMap, float]]:
    """Load maps given as FILE or FILE@STRENGTH, by the names of their files.

    Raises:
        ConfigError: two have the same name.
    """
    names = [Path(split_spec(spec)[0]).stem for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"map {name!r} is given twice; requests name maps by their files' names, so "
                "rename one of the files."
            )
    return dict(zip(names, fixed_maps(specs), strict=True))


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
