"""Save a language model with edited weights as a checkpoint that plain transformers loads.

A bias that the model did not have must be enabled in its config. Llama has one option for
attention and one for the MLP, Qwen3 and Gemma 2 have one for attention. Mistral and Qwen2 have
none, but are otherwise the same network as Llama, and are saved as Llama.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from lineas_core.errors import ModelError, SiteError
from lineas_core.export.edits import Edits, parameters_of, refusal
from lineas_core.models.language.model import LanguageModel

SWITCHES = {
    "attention_bias": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp_bias": ("gate_proj", "up_proj", "down_proj"),
}
LIKE_LLAMA = ("mistral", "qwen2")
NO_SWITCH = (
    "a shift there needs a bias in {layers}, and a {kind} checkpoint can have none. Fold a map "
    "whose shifts are zero there, or one of other sites"
)


def save_language_model(model: LanguageModel, edits: Edits, folder: Path) -> str:
    """Write a checkpoint with tokenizer into a folder.

    Args:
        model: the base model; not modified.
        edits: from `edits_of`.
        folder: where to write.

    Returns:
        A note for users of the checkpoint; may be empty.

    Raises:
        SiteError: a shift needs a bias that no checkpoint of the family can have.
        ModelError: the model is quantised, or has an adapter on it.
    """
    added = [name for name in edits.shifts if model.module.get_submodule(name).bias is None]
    state: dict[str, Tensor] = {
        **model.module.state_dict(),
        **parameters_of(model.module, edits),
    }
    config, note = _config_for(model.module.config, bool(added), state)
    with torch.device("meta"):
        plain = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    wanted = plain.state_dict()
    lacking = [layer for layer in added if f"{layer}.bias" not in wanted]
    refused = {}
    for site in (site for layer in lacking for site in edits.sources[layer]):
        layers = [layer.rpartition(".")[2] for layer in lacking if site in edits.sources[layer]]
        refused[site] = NO_SWITCH.format(layers=" and ".join(layers), kind=config.model_type)
    if refused:
        raise SiteError(refusal("folded into weights", refused))
    for name, tensor in wanted.items():
        if name.endswith(".bias") and name not in state:
            weight = state[f"{name.removesuffix('bias')}weight"]
            state[name] = torch.zeros(tensor.shape, dtype=weight.dtype)
    different = sorted(set(wanted) ^ set(state))
    if different:
        raise ModelError(
            f"{model.id} has other weights than a {config.model_type} model ({different[0]}): it "
            "is quantised, or an adapter is on it. Load the model itself in float32 or bfloat16."
        )
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.module.generation_config)
    plain.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return note


def _config_for(own: Any, added: bool, state: Mapping[str, Tensor]) -> tuple[Any, str]:
    """A config that enables the biases in `state`, and a note for the user.

    Args:
        own: the model's config.
        added: whether some of the biases are new to the model.
        state: the state dict to save.
    """
    config, note = copy.deepcopy(own), ""
    if not added:
        return config, note
    if config.model_type in LIKE_LLAMA:
        config, note = _as_llama(config)
    biased = {name.split(".")[-2] for name in state if name.endswith(".bias")}
    for switch, layers in SWITCHES.items():
        if hasattr(config, switch) and biased & set(layers):
            setattr(config, switch, True)
    return config, note


def _as_llama(own: Any) -> tuple[Any, str]:
    """The equivalent Llama config of a Mistral or Qwen2 model, and a note for the user.

    Llama has no sliding window, so with one the two are equal only for texts that fit into it,
    and the maximum length is set to the window. If the rotary embedding also depends on the
    maximum length, they are not equal, and the config is returned unchanged.
    """
    known, values = transformers.LlamaConfig().to_dict(), own.to_dict()
    for name in ("model_type", "architectures", "transformers_version"):
        known.pop(name, None)
    taken = {name: value for name, value in values.items() if name in known}
    note = f"Written as a Llama, which is the same network as this {own.model_type} with biases."
    window, layers = values.get("sliding_window"), values.get("layer_types")
    max_length = own.max_position_embeddings
    if window and window < max_length and (layers is None or "sliding_attention" in layers):
        if own.rope_parameters["rope_type"] != "default":
            return own, ""
        taken["max_position_embeddings"] = window
        note += f" It reads {window} tokens at most, not {max_length}: beyond that the two differ."
    return transformers.LlamaConfig(**taken), note
