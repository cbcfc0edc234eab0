"""The formats of other programs in which the library tab writes and reads maps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import lineas_core as lc
from lineas_core.errors import ConfigError
from lineas_core.export.control_vector import to_gguf
from lineas_core.export.import_map import import_map
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.lines import MAX_TITLE
from lineas_core.studio.jobs.device.model_cache import ModelCache
from lineas_core.studio.storage.map_extras import file_name

OWN = "lineas"
# What the page shows -> the format.
FORMATS = {
    "LinEAS": OWN,
    "llama.cpp (.gguf)": "gguf",
    "ComfyUI, A1111": "comfyui",
}
# Suffixes of other programs' files.
OTHERS = (".gguf", ".pt", ".statedict")


def write_as(
    format: str,
    smap: SteeringMap,
    title: str,
    folder: Path,
    models: ModelCache,
    taken: Collection[str] = (),
) -> Path:
    """Write a map in another program's format.

    Args:
        format: "gguf" or "comfyui".
        smap: the map.
        title: names the file.
        folder: where it is written.
        models: has the model, on whose weights a file for ComfyUI depends.
        taken: names of other files in the folder.

    Raises:
        ConfigError: there is no such format, or the model is not in memory.
        SiteError, MapError: the format cannot hold the map.
    """
    if format == "gguf":
        return to_gguf(smap, to=folder / file_name(title, taken, ".gguf"))
    if format != "comfyui":
        raise ConfigError(f"format is {format!r}; choose {OWN}, gguf or comfyui.")
    model = smap.info.model
    if not models.has(model):
        # Loading it would take another model from whoever is using that.
        raise ConfigError(
            f"The file depends on the weights of {model}, which is not in memory. Choose it in the "
            "tab Images, and export again."
        )
    # Imported on first use: its import of diffusers would delay the start of the app.
    return lc.to_comfyui(models.get(model), smap, to=folder / file_name(title, taken))


def read_other(path: Path, model: str) -> SteeringMap:
    """The map in another program's file, for the model that it was learned on.

    Raises:
        MapError: the file is damaged or of another kind.
    """
    smap = import_map(path)
    name = " ".join(smap.info.name.split())[:MAX_TITLE]
    return replace(smap, info=replace(smap.info, model=model, name=name))
