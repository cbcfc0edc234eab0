"""`lineas evaluate`: the tables of the papers."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lineas_core.cli.options import AsJson, Device, load, pairs_of, seeds_of
from lineas_core.cli.terminal import console, show
from lineas_core.evaluation.tables import NAMES, find_table


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(evaluate)


def evaluate(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The embedded one by default.")] = "",
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A size of the table, as completions=50; repeat for more."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder; user data by default.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Ray processes to measure in; 0 uses this process.")
    ] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Reproduce a table of the papers: CSV, Markdown and a plot. Measured cells are reused."""
    found = find_table(table)
    sizes, chosen = found.sized(pairs_of(setting or [])), seeds_of(seeds)

    from lineas_core.evaluation.cells import Bench
    from lineas_core.evaluation.report import write_results
    from lineas_core.system.home import lineas_home

    # With workers, this process only reads the model's settings.
    loaded = load(model or found.model, "cpu" if workers else device)
    folder = output or lineas_home() / "evaluation" / re.sub(r"[^\w.-]+", "-", loaded.id)
    bench = Bench(loaded, folder, _tell)
    if workers:
        from lineas_core.evaluation.workers import measure_with

        results = measure_with(found, bench, sizes, chosen, workers=workers, device=device)
    else:
        results = found.measure(bench, sizes, chosen)
    command = " ".join(["lineas", *map(shlex.quote, sys.argv[1:])])
    files = write_results(found, results, folder, command, chosen)
    if as_json:
        show({"files": [str(file) for file in files]}, as_json)
    else:
        print(found.write(results))
        _tell(f"in {folder}: {', '.join(file.name for file in files)}")


def _tell(line: str) -> None:
    console.print(line, highlight=False)
