"""`lineas fold`: write a map into a plain checkpoint or a PEFT adapter.

Slow imports are inside the functions that need them, so that --help is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineas_core.cli.options import AsJson, Device, FixedMaps, ModelName, fixed_maps, load
from lineas_core.cli.terminal import show


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command()(fold)


def fold(
    maps: FixedMaps,
    to: Annotated[Path, typer.Option(help="A new folder for the checkpoint.")],
    model: ModelName = "smollm2",
    peft: Annotated[
        bool, typer.Option("--peft", help="Write an adapter of PEFT, not a checkpoint.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write maps into the model's weights, as a folder that transformers or diffusers can load."""
    from lineas_core.export.checkpoint import fold as fold_map
    from lineas_core.export.peft import to_peft
    from lineas_core.maps.steering_map import compose

    write = to_peft if peft else fold_map
    pairs = fixed_maps(maps)
    if len(pairs) == 1:
        folder = write(load(model, device), *pairs[0], to=to)
    else:
        folder = write(load(model, device), compose(pairs), to=to)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    show({"folder": str(folder), "files": len(files), "bytes": size}, as_json)
