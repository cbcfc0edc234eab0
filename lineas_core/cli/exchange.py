"""`lineas export | import`: maps to and from the formats of other programs.

Slow imports are inside the functions that need them, so that --help is fast.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lineas_core.cli.options import AsJson, FixedMaps, NewMapFile, fixed_maps, load
from lineas_core.cli.terminal import console, plain, show


class Format(StrEnum):
    """What a map can be written as. PEFT's adapters are written by `fold --peft`."""

    gguf = "gguf"
    comfyui = "comfyui"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("export")(export_file)
    app.command("import")(import_file)


def export_file(
    format: Annotated[
        Format,
        typer.Argument(help="gguf: a control vector of llama.cpp; comfyui: a LoRA of norms."),
    ],
    maps: FixedMaps,
    to: Annotated[Path, typer.Option(help="The file to write.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="For comfyui: the image model; the map's own.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write maps as a file that llama.cpp, or ComfyUI and A1111, load.

    comfyui needs the image model, whose norms' weights the file's differences depend on.
    """
    from lineas_core.export.comfyui import to_comfyui
    from lineas_core.export.control_vector import to_gguf
    from lineas_core.maps.steering_map import compose

    pairs = fixed_maps(maps)
    smap = pairs[0][0].at(pairs[0][1]) if len(pairs) == 1 else compose(pairs)
    if format is Format.gguf:
        file = to_gguf(smap, to=to)
    else:
        file = to_comfyui(load(model or smap.info.model, "cpu"), smap, to=to)
    show({"file": str(file), "bytes": file.stat().st_size}, as_json)


def import_file(
    source: Annotated[
        Path,
        typer.Argument(
            help="A control vector (.gguf), vectors of torch.save (.pt), or a folder of CAA's or "
            "ml-act's files."
        ),
    ],
    output: NewMapFile,
    layers: Annotated[
        str, typer.Option(help="Sites of the vectors, such as transformer.h.{num}.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a map of a vector or an intervention from another program."""
    from lineas_core.export.import_map import import_map

    smap = import_map(source, layers=layers)
    for note in smap.info.config["notes"]:
        console.print(plain(note), style="yellow", highlight=False)
    smap.save(output)
    config = smap.info.config
    show({"map": str(output), "sites": len(smap.sites), "format": config["format"]}, as_json)
