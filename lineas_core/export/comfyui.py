"""A map of the norms of Stable Diffusion's or SDXL's UNet as a LoRA file for ComfyUI and A1111.

    w' = w + s dw        dw = (scale - 1) w            the norm's weight
    b' = b + s db        db = (scale - 1) b + shift    its bias

with s the strength of the loader, so that the loader's slider is the map's. The keys are
`lora_unet_MODULE.w_norm` and `.b_norm`, which ComfyUI reads as differences of weights
(`comfy/lora.py`, `load_lora`), and so does A1111 (`extensions-builtin/Lora/network_norm.py`, which
wants both). MODULE is the name in the original implementation, which both run; A1111 does not
translate diffusers' name of the last norm.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import save

from lineas_core.errors import MapError, ModelError, SiteError
from lineas_core.export.edits import edits_of, refusal, wide
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.load import Model
from lineas_core.system.files import why, write_whole

WHAT = "written as a LoRA of norms"
REMEDY = "`lineas_core.fold` writes such a map into a pipeline."
NO_NORM = "only norms of the UNet go into such a file. Choose the sites 'norm'"
UNET = "unet."
# Blocks of the UNets of Stable Diffusion and SDXL, which the original implementation has too.
BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
# Width of the text that Stable Diffusion 2 reads.
SD_2 = 1024
# Norms of a residual block, by diffusers' names and by the original ones. In attentions the two are
# the same.
RESIDUAL = {"norm1": "in_layers.0", "norm2": "out_layers.0"}


def to_comfyui(model: Model, smap: SteeringMap, *, to: str | os.PathLike[str]) -> Path:
    """Write a map as a LoRA file for ComfyUI's "Load LoRA" node, A1111 and Forge.

    The loader's model strength is the map's strength. The model gives the norms' own weights, which
    the differences depend on: load the file with the same checkpoint.

    Args:
        model: Stable Diffusion 1 or 2, or SDXL.
        smap: its sites must be norms of the UNet.
        to: the file, conventionally with the suffix .safetensors; replaced if it exists.

    Returns:
        The file.

    Raises:
        ModelError: the model has no UNet that ComfyUI knows.
        SiteError: the map has other sites; the message names them.
        MapError: the map changes nothing, or the file cannot be written.
    """
    unet = _unet(model)
    edits = edits_of(model.module, "", smap)
    names = original_names(unet)
    strangers = [*edits.scales, *edits.shifts]
    strangers += [
        norm
        for norm in dict.fromkeys(name.rpartition(".")[0] for name in edits.norms)
        if norm.removeprefix(UNET) not in names or not norm.startswith(UNET)
    ]
    if strangers:
        raise SiteError(refusal(WHAT, dict.fromkeys(strangers, NO_NORM), REMEDY))
    if not edits.norms:
        raise MapError("The map changes nothing, so there is nothing to write.")
    tensors = {}
    for parameter, value in edits.norms.items():
        norm, _, last = parameter.removeprefix(UNET).rpartition(".")
        key = f"lora_unet_{names[norm].replace('.', '_')}.{last[0]}_norm"
        tensors[key] = value - wide(model.module.get_parameter(parameter))
    info = smap.info
    about = {"name": info.name, "concept": info.concept, "digest": smap.digest()}
    metadata = {"lineas": json.dumps(about), **_mark(unet.config)}
    try:
        return write_whole(to, save(tensors, metadata=metadata))
    except (OSError, SafetensorError) as error:
        raise MapError(
            f"Cannot write {Path(to).name} ({why(error)}). Choose a folder that can be written."
        ) from error


def original_names(unet: Any) -> dict[str, str]:
    """Norm of a diffusers UNet -> its name in the original implementation.

    The original counts the blocks of each half in one row, a downsampler as one of its own:
    `down_blocks.1.resnets.0.norm1` is `input_blocks.4.0.in_layers.0` where the first block has two
    residual blocks and a downsampler.
    """
    places = {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    # The first block of the input is a convolution.
    for half, row, number in (("down", "input", 1), ("up", "output", 0)):
        for outer, block in enumerate(getattr(unet, f"{half}_blocks")):
            for inner in range(len(block.resnets)):
                for kind, position in (("resnets", 0), ("attentions", 1)):
                    place = f"{half}_blocks.{outer}.{kind}.{inner}"
                    places[place] = f"{row}_blocks.{number}.{position}"
                number += 1
            number += bool(getattr(block, "downsamplers", None))
    names = {"conv_norm_out": "out.0"}
    for name, _ in unet.named_modules():
        head, found = name, ""
        while head and not found:
            head, _, _ = head.rpartition(".")
            found = places.get(head, "")
        rest = name[len(head) + 1 :]
        if found and "norm" in rest:
            names[name] = f"{found}.{RESIDUAL.get(rest, rest)}"
    return names


def _unet(model: Model) -> Any:
    """The UNet of an image model, if ComfyUI and A1111 have the same.

    Raises:
        ModelError: it has none, or another one.
    """
    unet = getattr(model.module, "unet", None) if isinstance(model, DiffusionModel) else None
    config: Any = getattr(unet, "config", None) if isinstance(unet, UNet2DConditionModel) else None
    if (
        config is None
        or config.addition_embed_type not in (None, "text_time")
        or not BLOCKS.issuperset([*config.down_block_types, *config.up_block_types])
    ):
        raise ModelError(
            f"{model.id} is no Stable Diffusion 1 or 2 and no SDXL, whose UNets are what ComfyUI "
            "and A1111 know. Write a pipeline with `lineas_core.fold`."
        )
    return unet


def _mark(config: Any) -> dict[str, str]:
    """Metadata by which A1111 tells the versions apart (`network.py`, `detect_version`).

    It hides files of another version than the model's. A file without a mark is of the first.
    """
    if config.addition_embed_type == "text_time":
        return {"ss_base_model_version": "sdxl_base_v1-0"}
    return {"ss_v2": "True"} if config.cross_attention_dim == SD_2 else {}
