"""Measure the memory that a training step saves for backward, and find out how it fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lineas_core.activations import pooled_forward
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.recompute import layers_of
from lineas_core.steerable import Continuations, Inputs, Steerable
from lineas_core.system.devices import free_bytes

# Share of the free memory to use. The rest is for gradients during backward, and on a CPU for all
# else that runs on the machine; a GPU says exactly what it has.
BUDGET, GPU_BUDGET = 0.5, 0.85

# A forward pass with a model, inputs and sites, and by name `maps` and `layers`.
Pass = Callable[..., object]


def bytes_kept(
    model: Steerable,
    inputs: Inputs | Continuations,
    sites: Sequence[str],
    maps: Mapping[str, BatchAffine],
    run: Pass = pooled_forward,
    layers: Sequence[str] = (),
) -> int:
    """Bytes that one forward pass of `inputs` saves for backward, without the weights.

    Args:
        model: its weights are loaded anyway, so they are not counted.
        inputs: from `model.prepare`, or what else `run` takes.
        sites: in the order in which the model runs them.
        maps: the maps at the sites, which require gradients.
        run: the forward pass.
        layers: modules that are recomputed in backward; of these, their inputs are counted.
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

    def keep_given(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for given in (*args, *kwargs.values()):
            for tensor in given if isinstance(given, tuple) else (given,):
                if isinstance(tensor, Tensor):
                    keep(tensor)

    parts = [model.module.get_submodule(layer) for layer in layers]
    handles = [part.register_forward_pre_hook(keep_given, with_kwargs=True) for part in parts]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            run(model, inputs, sites, maps=maps, layers=layers)
    finally:
        for handle in handles:
            handle.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class Fit(NamedTuple):
    """How a step fits into memory.

    Attributes:
        rows: prompts per forward pass; 0 is all of them.
        layers: modules that are recomputed in backward, for `activations.pooled_forward`.
    """

    rows: int = 0
    layers: Sequence[str] = ()


def find_fit(
    model: Steerable,
    inputs: Inputs | Continuations,
    sites: Sequence[str],
    maps: Mapping[str, BatchAffine],
    run: Pass = pooled_forward,
    *,
    batch_size: int,
) -> Fit:
    """How to run the prompts of a step within the budget.

    All as they are, if they fit; else with layers recomputed in backward; else some prompts at a
    time. Measured on the longest prompt alone; the others are assumed to be as long.

    Args:
        model, sites, maps, run: as for `bytes_kept`.
        inputs: all prompts that minibatches are drawn from.
        batch_size: prompts per step.
    """
    longest = 0
    if inputs.mask is not None:
        longest = int(inputs.mask.sum(dim=1).argmax())
    row = inputs.rows([longest])
    one = bytes_kept(model, row, sites, maps, run)
    device = next(model.module.parameters()).device
    budget = free_bytes(device) * (GPU_BUDGET if device.type == "cuda" else BUDGET)
    together = min(batch_size, len(inputs))
    if one * together <= budget:
        return Fit()
    layers = layers_of(model.module, sites)
    if len(layers) > 1:
        # What one layer needs if they are alike, and as much again where they are not.
        held = bytes_kept(model, row, sites, maps, run, layers) + 2 * one / len(layers)
        if held * together <= budget:
            return Fit(layers=layers)
    return Fit(rows=max(int(budget / max(one, 1)), 1))
