"""Export a map as a PEFT adapter: a small file that can be added to and removed from a model.

    what the map changes                               kind of adapter
    norms alone                                        LN tuning: copies of them with other weights
    scales of linear layers alone                      IA3: w on their outputs
    shifts of linear layers, and norms if any          LoRA of rank 1 and weight 0 whose bias is the
                                                       shift, with copies of the norms beside it

The shift of a norm without a bias goes into the linear layers that read it, as in folding.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lineas_core.errors import ConfigError, ModelError, SiteError
from lineas_core.export.checkpoint import map_at, new_folder
from lineas_core.export.edits import Edits, edits_of, refusal, shared_copy
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.load import Model

MIXED = (
    "no adapter type combines scales of linear layers with other changes. Write a checkpoint "
    "with `lineas_core.fold`"
)


def to_peft(
    model: Model, smap: SteeringMap, strength: float = 1.0, *, to: str | os.PathLike[str]
) -> Path:
    """Write a map at a strength as an adapter for `peft.PeftModel.from_pretrained(base, folder)`.

    The base is the plain transformers model; with the adapter it computes what steering computes.
    The live model is not modified.

    Args:
        model: a language model.
        smap: its sites must be linear layers or norms.
        strength: of the map.
        to: a new or empty folder.

    Returns:
        The folder.

    Raises:
        ConfigError: peft is not installed, the map at this strength changes nothing, the strength
            is not finite, or the folder is not empty or cannot be written.
        ModelError: it is an image model.
        SiteError: no adapter type can express the map; the message names the sites.
    """
    if not isinstance(model, LanguageModel):
        raise ModelError(
            f"{model.id} makes images; only a language model's map becomes an adapter. Write a "
            "pipeline with `lineas_core.fold`."
        )
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "Adapters need the package peft. Install it with `pip install --no-deps peft==0.21.2`."
        ) from error
    at = map_at(smap, strength)
    edits = edits_of(model.module, model.module.config.model_type, at)
    config = _config(model, at, edits)
    with new_folder(to) as folder, warnings.catch_warnings():
        # PEFT warns about added biases and unknown norms; both are intended here.
        warnings.simplefilter("ignore")
        # get_peft_model modifies the model it is given, so pass a copy that shares its tensors.
        adapted = peft.get_peft_model(shared_copy(model.module), config)
        _fill(adapted, edits)
        adapted.save_pretrained(folder, save_embedding_layers=False)
    return Path(to)


def _config(model: LanguageModel, smap: SteeringMap, edits: Edits) -> Any:
    import peft

    norms = sorted({name.rpartition(".")[0] for name in edits.norms})
    base = model.entry.hub if model.entry else model.id
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "base_model_name_or_path": base}
    if edits.scales and (norms or edits.shifts):
        raise SiteError(refusal("put into one adapter", dict.fromkeys(edits.scales, MIXED)))
    if edits.scales:
        return peft.IA3Config(target_modules=list(edits.scales), feedforward_modules=[], **common)
    if edits.shifts:
        return peft.LoraConfig(
            r=1,
            lora_alpha=1,
            lora_bias=True,
            target_modules=list(edits.shifts),
            modules_to_save=norms or None,
            **common,
        )
    if norms:
        # PEFT can switch between LN tuning adapters only if they target the same norms. So target
        # all norm sites of the map, including those it does not change.
        kinds = {type(model.module.get_submodule(norm)) for norm in norms}
        targets = [s for s in smap.sites if type(model.module.get_submodule(s)) in kinds]
        return peft.LNTuningConfig(target_modules=targets, **common)
    raise ConfigError("The map at this strength changes nothing. Give another map or strength.")


@torch.no_grad()
def _fill(adapted: Any, edits: Edits) -> None:
    """Copy the map's values into a newly initialised adapter."""
    plain, name = adapted.base_model.model, adapted.active_adapter
    for site, scale in edits.scales.items():
        vector: Tensor = plain.get_submodule(site).ia3_l[name]
        vector.copy_(scale.view_as(vector))
    for site, shift in edits.shifts.items():
        layer = plain.get_submodule(site)
        layer.lora_A[name].weight.zero_()
        layer.lora_B[name].weight.zero_()
        layer.lora_B[name].bias.copy_(shift)
    for parameter, value in edits.norms.items():
        site, _, last = parameter.rpartition(".")
        wrapped = plain.get_submodule(site)
        copies = wrapped.modules_to_save if edits.shifts else wrapped.ln_tuning_layers
        getattr(copies[name], last).copy_(value)
