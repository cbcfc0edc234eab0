"""`lineas ...`: every action of the app from a terminal.

Exit codes: 0 success, 1 an error with a message, 2 wrong usage, 130 interrupted.
With --json, standard output holds only the result, as one JSON value.
Slow imports are inside the commands that need them, so that --help is fast.
"""

from __future__ import annotations

import io
import sys

import typer

from lineas_core.cli import (
    bundles,
    evaluate,
    exchange,
    fold,
    hub,
    listing,
    pictures,
    serve,
    texts,
    train,
    weights,
    write,
)
from lineas_core.cli.terminal import console, plain
from lineas_core.errors import LineasError

app = typer.Typer(
    help="Steer generative models by one learned scale and shift per neuron.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# In the order of --help.
COMMANDS = (
    train, texts, pictures, listing, evaluate, fold, exchange, write, serve, weights, bundles, hub,
)  # fmt: skip
for module in COMMANDS:
    module.register(app)


def main() -> None:
    """Run the command line. Errors of this library print one line and exit with code 1."""
    for stream in (sys.stdout, sys.stderr):
        # A pipe has the locale's encoding, which on Windows lacks most of what models write.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    try:
        app()
    except LineasError as error:
        console.print(f"[bold red]error[/bold red] {plain(str(error))}", highlight=False)
        sys.exit(1)
