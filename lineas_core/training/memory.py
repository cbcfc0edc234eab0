"""Measure the memory that a training step saves for backward, and how many prompts fit at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lineas_core.activations import pooled_forward
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.steerable import Inputs, Pooling, Steerable
from lineas_core.system.devices import free_bytes

# Share of the free memory to use. The rest is for gradients during backward and for other users of
# the device.
BUDGET = 0.5


def bytes_kept(
    model: Steerable,
    inputs: Inputs,
    sites: Sequence[str],
    maps: Mapping[str, BatchAffine],
    pooling: Pooling = "mean",
) -> int:
    """Bytes that one forward pass of `inputs` saves for backward, without the weights.

    Args:
        model: its weights are loaded anyway, so they are not counted.
        inputs: from `model.prepare`.
        sites: in the order in which the model runs them.
        maps: the maps at the sites, which require gradients.
        pooling: see `activations.pool`.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.module.parameters()}
    kept: dict[int, Tensor] = {}
    nothing = torch.empty(0)

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # Kept, as the address of a freed storage could be taken by the next one.
            kept[storage.data_ptr()] = tensor.detach()
        # Nothing goes back through this pass. If the graph were given its own tensors, it would
        # hold itself, and nothing collects a cycle through autograd's nodes.
        return nothing

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        pooled_forward(model, inputs, sites, pooling=pooling, maps=maps)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def rows_that_fit(
    model: Steerable,
    inputs: Inputs,
    sites: Sequence[str],
    maps: Mapping[str, BatchAffine],
    pooling: Pooling = "mean",
    *,
    batch_size: int,
) -> int:
    """How many prompts a step can run at once within half of the free memory; 0 means all.

    Measured on the longest prompt alone; the others are assumed to be as long.

    Args:
        model, sites, maps, pooling: as for `bytes_kept`.
        inputs: all prompts that minibatches are drawn from.
        batch_size: prompts per step.
    """
    longest = 0
    if inputs.mask is not None:
        longest = int(inputs.mask.sum(dim=1).argmax())
    one = bytes_kept(model, inputs.rows([longest]), sites, maps, pooling)
    device = next(model.module.parameters()).device
    fitting = int(free_bytes(device) * BUDGET / max(one, 1))
    return 0 if fitting >= min(batch_size, len(inputs)) else max(fitting, 1)
