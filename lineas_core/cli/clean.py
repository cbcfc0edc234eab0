"""`lineas clean`: room on the disk of whoever hosts the app."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lineas_core.cli.options import AsJson
from lineas_core.cli.terminal import console, plain

MIB = 2**20


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(clean)


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
    import json

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
