"""Save a diffusers pipeline with edited weights as a folder that plain diffusers loads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from lineas_core.errors import SiteError
from lineas_core.export.edits import Edits, parameters_of, refusal, shared_copy
from lineas_core.models.image.model import DiffusionModel

NO_BIAS = (
    "a shift there needs a bias, and the layer has none. Fold a map whose shifts are zero there"
)


def save_pipeline(model: DiffusionModel, edits: Edits, folder: Path) -> None:
    """Write a pipeline with all its parts into a folder.

    Args:
        model: the base model; not modified.
        edits: from `edits_of`.
        folder: where to write.

    Raises:
        SiteError: a layer has no bias to take a shift.
    """
    refused = {
        site: NO_BIAS
        for layer, sites in edits.sources.items()
        if model.module.get_submodule(layer).bias is None
        for site in sites
    }
    if refused:
        raise SiteError(refusal("folded into weights", refused))
    changed = parameters_of(model.module, edits)
    pipeline: Any = copy.copy(model.pipeline)
    for part in dict.fromkeys(name.partition(".")[0] for name in changed):
        own = model.module.get_submodule(part)
        other = shared_copy(own, [model.module])
        for name, value in changed.items():
            if name.startswith(f"{part}."):
                path, _, parameter = name.removeprefix(f"{part}.").rpartition(".")
                replacement = nn.Parameter(value, requires_grad=False)
                setattr(other.get_submodule(path), parameter, replacement)
        setattr(pipeline, part, other)
    pipeline.save_pretrained(folder)
