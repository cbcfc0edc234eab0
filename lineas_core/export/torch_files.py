"""Vectors and maps in files of `torch.save`, which are read as tensors and never as code.

vec_layer_N_MODEL.pt    CAA: the vector of layer N (`generate_vectors.py` of nrimsky/CAA)
NAME.pt                 a dictionary from the number of a layer to its vector, such as
                        `layer_activations` of steering-vectors
MODULE.statedict        ml-act: `ml_act.py`
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lineas_core.errors import MapError
from lineas_core.export.layer_vectors import LayerVectors
from lineas_core.maps.file_format import MAX_BYTES
from lineas_core.system.files import why

CAA_FILE = re.compile(r"vec_layer_(\d{1,4})_(.+)\.pt")
CAA_NOTE = "CAA adds its vector after the question only; the map adds it at every token."


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers and texts, and lists and dictionaries of them.

    Raises:
        MapError: the file is missing, too large or damaged, or it holds anything else, which only
            running code from the file could restore.
    """
    name = path.name[:200]
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MapError(
                f"{name} has more than {MAX_BYTES:,} bytes; maps and vectors have fewer."
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MapError(f"There is no file {name!r}. Check the path.") from error
    except pickle.UnpicklingError as error:
        raise MapError(
            f"{name} holds objects beside tensors, or is no file of torch.save. Objects are not "
            "loaded, since a file can run code through them. Where the vectors were made, save "
            "their tensors alone: torch.save({layer: vector, ...}, 'vectors.pt'), with "
            "vector.layer_activations of steering-vectors."
        ) from error
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError) as error:
        raise MapError(
            f"{name} is not a readable file of torch.save ({why(error)}). It is damaged or of "
            "another kind."
        ) from error


def is_layers(value: object) -> bool:
    """Whether it is a dictionary from layers to tensors."""
    return isinstance(value, dict) and all(type(key) is int for key in value) and bool(value)


def layer_vectors(name: str, value: Mapping[int, object]) -> LayerVectors:
    """The vectors of a dictionary from layers to tensors.

    Raises:
        MapError: a value is no vector; the message names the file and the layer.
    """
    return LayerVectors({layer: _vector(name, layer, each) for layer, each in value.items()})


def caa_vectors(files: Iterable[tuple[str, object]]) -> tuple[LayerVectors, str]:
    """The vectors of CAA's files, and the model that their names give.

    Args:
        files: name and contents of each.

    Raises:
        MapError: a name is not CAA's, two are of one layer, or a file holds no vector.
    """
    vectors: dict[int, Tensor] = {}
    model = ""
    for name, value in files:
        found = CAA_FILE.fullmatch(name)
        if found is None:
            raise MapError(
                f"{name} holds one vector, and its name does not give the layer. Name it as CAA "
                "does, vec_layer_13_MODEL.pt, or save {13: vector} in its place."
            )
        layer, model = int(found[1]), found[2]
        if layer in vectors:
            raise MapError(f"{name}: another file has the layer {layer} too. Leave one of them.")
        vectors[layer] = _vector(name, layer, value)
    return LayerVectors(vectors), model


def _vector(name: str, layer: int, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 1 or not torch.is_floating_point(value):
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise MapError(
            f"{name}: layer {layer} holds {shape or type(value).__name__}; it must be one vector, "
            "of numbers with a fraction."
        )
    return value
