"""`lineas inspect | models | prompts`: what is in a map file, and what ships."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from lineas_core.cli.options import AsJson, MapFile
from lineas_core.cli.terminal import out, show


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (inspect, models, prompts):
        app.command()(command)


def inspect(file: MapFile, as_json: AsJson = False) -> None:
    """Show the contents of a map file."""
    from lineas_core.maps.steering_map import SteeringMap

    smap = SteeringMap.load(file)
    support = smap.support_by_site()
    found = {**asdict(smap.info), "support": smap.support(), "bounded": len(smap.bounds)}
    if as_json:
        show({**found, "sites": support}, as_json)
        return
    show(found, as_json)
    table = Table("site", "width", "support", "largest |w-1|", "largest |b|")
    for name, (scale, shift) in smap.sites.items():
        table.add_row(
            name,
            str(scale.numel()),
            f"{support[name]:.0%}",
            f"{float((scale - 1).abs().max()):.3g}",
            f"{float(shift.abs().max()):.3g}",
        )
    out.print(table)


def models(as_json: AsJson = False) -> None:
    """List the models that have a short name."""
    from lineas_core.models.shared.catalog import catalog

    if as_json:
        show([asdict(entry) for entry in catalog().values()], as_json)
        return
    table = Table("name", "title", "kind", "dtype", "memory", "licence")
    for entry in catalog().values():
        table.add_row(
            entry.id, entry.title, entry.kind, entry.dtype, f"{entry.memory:g} GiB", entry.license
        )
    out.print(table)


def prompts(
    name: Annotated[str | None, typer.Argument(help="A set to check; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped prompt sets, or check one set and list its warnings."""
    from lineas_core.prompts.prompt_set import PromptSet, shipped_prompt_sets

    sets = [PromptSet.load(n) for n in ([name] if name else shipped_prompt_sets())]
    if as_json:
        rows = [{**asdict(s), "issues": [asdict(i) for i in s.issues()]} for s in sets]
        show(rows[0] if name else rows, as_json)
        return
    table = Table("name", "title", "source", "target", "concept")
    for s in sets:
        table.add_row(s.name, s.title, str(len(s.source)), str(len(s.target)), s.concept)
    out.print(table)
    if name:
        for issue in sets[0].issues():
            out.print(str(issue), highlight=False)
