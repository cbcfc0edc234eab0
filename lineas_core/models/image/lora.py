"""Merge a low-rank update (LoRA), such as one that makes a model a few-step model."""

from __future__ import annotations

from typing import Any

import torch

from lineas_core.errors import ModelError
from lineas_core.models.shared.catalog import Checkpoint

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def merge_lora(pipeline: Any, checkpoint: Checkpoint) -> None:
    """Add a low-rank update to the weights of the pipeline's transformer.

    Each weight W becomes W + BA, summed in float32 and rounded once to the dtype of W. A merged
    layer takes the time and has the name that it had before.

    Args:
        pipeline: of diffusers, with a transformer.
        checkpoint: a .safetensors file, in any format that diffusers reads.

    Raises:
        ModelError: the update is for another network, or is more than a product of two matrices.
    """
    repo, file = checkpoint.repo, checkpoint.file
    factors = pipeline.lora_state_dict(repo, weight_name=file, use_safetensors=True)
    weights = dict(pipeline.transformer.named_parameters())
    layers = [name.removesuffix(DOWN) for name in factors if name.endswith(DOWN)]
    # A bias, the magnitude of DoRA, or half of a pair: without it the update would be another.
    for name in sorted(factors.keys() ^ {layer + end for layer in layers for end in (DOWN, UP)}):
        raise ModelError(
            f"{file} of {repo} does not merge: {name} is missing, or is no factor of a low-rank "
            "update. Take one of plain LoRA, or merge it with diffusers and load the folder."
        )
    for layer in layers:
        weight = weights.get(f"{layer.removeprefix('transformer.')}.weight")
        down, up = factors[layer + DOWN].float(), factors[layer + UP].float()
        if weight is None or weight.shape != (len(up), down.shape[1]):
            raise ModelError(
                f"{file} of {repo} does not fit {type(pipeline.transformer).__name__}: {layer} is "
                "missing there, or of another shape. Use it with the model it was distilled from."
            )
        with torch.no_grad():
            weight.copy_(weight.float() + up @ down)
