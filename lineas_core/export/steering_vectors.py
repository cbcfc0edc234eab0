"""Vectors of steering-vectors and of repeng, as objects of these libraries.

Both add a vector to the output of each of some layers, counted from 0, at every token:
steering-vectors also to a module in the layer, by the vector's `layer_type`. repeng's files are
llama.cpp's: `control_vector.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lineas_core.errors import ConfigError, MapError
from lineas_core.export.layer_vectors import LayerVectors
from lineas_core.maps.steering_map import SteeringMap

if TYPE_CHECKING:
    from steering_vectors import SteeringVector

WHAT = "written as a steering vector"
REMEDY = "Learn a map that only shifts, such as one of mean-act or caa, at one kind of module."


def to_steering_vector(smap: SteeringMap) -> SteeringVector:
    """The map as a vector of steering-vectors: `with vector.apply(model, multiplier=0.7):`.

    Args:
        smap: it only shifts, at one kind of site: layers (`model.layers.7`), or in each layer the
            attention, the MLP, or one of the two norms before them.

    Raises:
        ConfigError: steering-vectors is not installed.
        SiteError: the map scales or has other sites; the message names them.
        MapError: the map changes nothing.
    """
    layers = LayerVectors.of_map(smap, WHAT, REMEDY)
    try:
        from steering_vectors import SteeringVector
    except ImportError as error:
        raise ConfigError(
            "Its vectors need the package steering-vectors. Install it with "
            "`pip install --no-deps steering-vectors==0.12.2`, which works with this version of "
            "transformers."
        ) from error
    return SteeringVector(dict(layers.vectors), layers.kind)


def vectors_of(vector: Any) -> tuple[LayerVectors, str, str]:
    """The vectors of a `steering_vectors.SteeringVector` or a `repeng.ControlVector`.

    Recognised by their fields, so that neither library has to be installed.

    Returns:
        The vectors, the name of the library, and the model it names; "" where it names none.

    Raises:
        MapError: it is neither.
    """
    if isinstance(found := getattr(vector, "layer_activations", None), Mapping):
        kind = str(getattr(vector, "layer_type", "decoder_block"))
        return LayerVectors(_tensors(found), kind), "steering-vectors", ""
    if isinstance(found := getattr(vector, "directions", None), Mapping):
        return LayerVectors(_tensors(found)), "repeng", str(getattr(vector, "model_type", ""))
    raise MapError(
        f"A {type(vector).__name__} is no file and no vector that is known. Give a path, a "
        "SteeringVector of steering-vectors or a ControlVector of repeng."
    )


def _tensors(found: Mapping[Any, Any]) -> dict[int, Tensor]:
    # Arrays are copied: repeng maps its files into memory, where nothing may write.
    tensors = {
        int(layer): vector if isinstance(vector, Tensor) else torch.tensor(np.array(vector))
        for layer, vector in found.items()
    }
    return {layer: vector.detach().float().reshape(-1) for layer, vector in tensors.items()}
