"""Maps from the files and objects of other libraries."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from lineas_core.errors import ConfigError, MapError
from lineas_core.export import ml_act
from lineas_core.export.control_vector import read_gguf
from lineas_core.export.layer_vectors import LayerVectors
from lineas_core.export.steering_vectors import vectors_of
from lineas_core.export.torch_files import (
    CAA_FILE,
    CAA_NOTE,
    caa_vectors,
    is_layers,
    layer_vectors,
    load_tensors,
)
from lineas_core.maps.steering_map import MapInfo, SteeringMap
from lineas_core.version import __version__

# Above the number of modules with one file each in a model.
MAX_FILES = 16_384
PARTS = re.compile(r"(\d+)")
KINDS = (
    "a control vector (.gguf), a file of torch.save (.pt, .statedict), or a folder of CAA's or "
    "ml-act's files"
)


def import_map(source: str | os.PathLike[str] | object, *, layers: str = "") -> SteeringMap:
    """The map that does what a vector or an intervention of another library does.

        llama.cpp, repeng      a control vector, FILE.gguf
        steering-vectors       a SteeringVector, or FILE.pt with its `layer_activations`
        repeng                 a ControlVector
        CAA                    vec_layer_N_MODEL.pt, or a folder of them
        ml-act                 MODULE.statedict, or a folder of them

    Files of `torch.save` are read as tensors alone, so that none can run code. The map's
    `info.config` has the `format`, and under `notes` where the other library acts otherwise.

    Args:
        source: a file, a folder, or an object of steering-vectors or repeng.
        layers: the sites of vectors, with `{num}` for the layer, such as `transformer.h.{num}`. By
            default `model.layers.{num}`, or the module in it that a SteeringVector names. ml-act's
            files name their modules.

    Returns:
        The map. At strength 1 it adds the vector once.

    Raises:
        MapError: the source is missing, damaged or of another kind.
        ConfigError: `layers` has no `{num}`, or the files name their modules.
    """
    if not isinstance(source, str | os.PathLike):
        found, library, model = vectors_of(source)
        return found.to_map(layers, _info(f"{library} vector", model, ""))
    path = Path(source)
    if path.suffix.lower() == ".gguf":
        found, model, name = read_gguf(path)
        return found.to_map(layers, _info("control vector", model, name or path.stem))
    files = _files(path)
    contents = [(file.name, load_tensors(file)) for file in files]
    if all(ml_act.is_state(value) for _, value in contents):
        if layers:
            raise ConfigError(
                "layers is given, but ml-act's files name their modules. Leave it out."
            )
        folder = files[0].resolve().parent.name
        sites, bounds, method, notes = ml_act.sites_of(contents, folder)
        return SteeringMap(sites, _info(f"ml-act {method}", "", path.stem, notes), bounds)
    found, info = _vectors(path, contents)
    return found.to_map(layers, info)


def _files(path: Path) -> list[Path]:
    """The file, or those in the folder that hold vectors or interventions."""
    if not path.is_dir():
        return [path]
    files = [
        each
        for each in path.iterdir()
        if each.suffix == ml_act.SUFFIX or CAA_FILE.fullmatch(each.name)
    ]
    # Numbers by their value, so that sites are in the order of the layers.
    files.sort(
        key=lambda file: [int(part) if part.isdigit() else part for part in PARTS.split(file.name)]
    )
    if not 1 <= len(files) <= MAX_FILES:
        raise MapError(
            f"{path.name} holds {len(files)} files named vec_layer_N_MODEL.pt or MODULE"
            f"{ml_act.SUFFIX}; it must hold 1 to {MAX_FILES:,}. Give the file itself."
        )
    return files


def _vectors(path: Path, contents: Sequence[tuple[str, Any]]) -> tuple[LayerVectors, MapInfo]:
    name, value = contents[0]
    if len(contents) == 1 and is_layers(value):
        return layer_vectors(name, value), _info("vectors of torch.save", "", path.stem)
    if other := [name for name, value in contents if not isinstance(value, Tensor)]:
        raise MapError(f"{other[0]} holds no vector and no map. Give {KINDS}.")
    vectors, model = caa_vectors(contents)
    return vectors, _info("CAA vector", model, path.stem, [CAA_NOTE])


def _info(format: str, model: str, name: str, notes: Sequence[str] = ()) -> MapInfo:
    return MapInfo(
        model=model,
        method="imported",
        name=name,
        config={"format": format, "notes": list(notes)},
        library_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
