"""What ComfyUI's LoRA loader does to a UNet, from its formulas.

`comfy/utils.py`, `unet_to_diffusers`: diffusers' names of weights and the original ones.
`comfy/lora.py`, `model_lora_keys_unet`: the keys of a file and the weights that they change;
`load_lora` and `calculate_weight`: `w_norm` and `b_norm` are differences, added times the strength.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from torch import Tensor

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
DOWN, UP = "DownBlock2D", "UpBlock2D"


def original_weights(config: Any, state: dict[str, Tensor]) -> dict[str, str]:
    """Original name of each weight -> diffusers' name, from the numbers in the config alone."""
    each, kinds = config.layers_per_block, config.down_block_types
    prefixes = dict(OUTSIDE)
    for level in range(len(kinds)):
        first = 1 + (each + 1) * level
        for i in range(each):
            prefixes[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{first + i}.0"
            prefixes[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{first + i}.1"
        prefixes[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + each}.0.op"
    for i, place in enumerate((0, 2)):
        prefixes[f"mid_block.resnets.{i}"] = f"middle_block.{place}"
    prefixes["mid_block.attentions.0"] = "middle_block.1"
    numbers = count()
    for level, kind in enumerate(config.up_block_types):
        for i in range(each + 1):
            number = next(numbers)
            prefixes[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{number}.0"
            prefixes[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{number}.1"
        last = 1 if kind == UP else 2
        prefixes[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{last}.conv"
    names = {}
    for name in state:
        module, _, parameter = name.rpartition(".")
        head = next(p for p in prefixes if f"{module}.".startswith(f"{p}."))
        rest = module[len(head) + 1 :]
        parts = [prefixes[head], RESIDUAL[rest] if ".resnets." in name else rest, parameter]
        names[".".join(part for part in parts if part)] = name
    return names


def load(unet: Any, lora: dict[str, Tensor], strength: float) -> set[str]:
    """Change a UNet as the loader does; the keys that it does not know are returned."""
    state = dict(unet.named_parameters())
    unknown = set(lora)
    for original, name in original_weights(unet.config, state).items():
        if not original.endswith(".weight"):
            continue
        key = f"lora_unet_{original.removesuffix('.weight').replace('.', '_')}"
        for part, parameter in (("w_norm", name), ("b_norm", f"{name[: -len('weight')]}bias")):
            if f"{key}.{part}" in lora:
                unknown.discard(f"{key}.{part}")
                with torch.no_grad():
                    state[parameter] += strength * lora[f"{key}.{part}"]
    return unknown
