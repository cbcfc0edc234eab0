"""Finds the norms of a model's layers by running it, for families that no preset knows."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator, Sequence

import torch
import transformers
from torch import Tensor, nn

from lineas_core.models.language.batching import few_tokens

TOKENS = 4


@torch.no_grad()
def text_order(module: transformers.PreTrainedModel) -> dict[str, int]:
    """The modules that run when the model reads text, in the order in which they end.

    Returns:
        Module name -> number of dimensions of its output; 0 if that is not a tensor.
    """
    names = {part: name for name, part in module.named_modules()}
    order: dict[str, int] = {}
    here = threading.get_ident()

    def note(part: nn.Module, _: object, output: object) -> None:
        if threading.get_ident() != here:
            # Another thread runs the model meanwhile.
            return
        first = output[0] if isinstance(output, tuple) and output else output
        order.setdefault(names[part], first.ndim if isinstance(first, Tensor) else 0)

    hooks = [part.register_forward_hook(note) for part in names]
    try:
        module.base_model(input_ids=few_tokens(module, TOKENS), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return order


def mlp_norms(module: nn.Module, order: Collection[str]) -> str:
    """A regular expression for the norm in each layer that feeds its MLP, or its only mixer.

    That is the last norm which runs before the last other part of the layer. Layers are the
    elements of the largest list of modules that text reaches. Where a layer has no such norm among
    its own parts, as in BERT, the parts of its parts are searched, and so on. "" if there are none.

    Args:
        module: the model.
        order: from `text_order`.
    """
    best, largest, weights = "", nn.ModuleList(), 0
    for name, layers in _lists(module):
        reached = any(f"{name}.{index}" in order for index in range(len(layers)))
        size = sum(p.numel() for p in layers.parameters())
        if reached and size > weights:
            best, largest, weights = name, layers, size
    found: dict[str, None] = {}
    for index, layer in enumerate(largest):
        inside = f"{best}.{index}."
        parts = [n.removeprefix(inside) for n in order if n.startswith(inside)]
        for depth in range(1 + max((part.count(".") for part in parts), default=-1)):
            if chosen := _before_last(layer, _at_depth(parts, depth)):
                found.setdefault(chosen)
                break
    if not found:
        return ""
    ends = "|".join(re.escape(name) for name in found)
    return rf"{re.escape(best)}\.\d+\.({ends})"


def _lists(module: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList):
            yield name, part


def _at_depth(parts: Sequence[str], depth: int) -> list[str]:
    """The parts whose names have `depth` dots, and those above them without parts of their own."""
    whole = {part.rpartition(".")[0] for part in parts}
    return [p for p in parts if p.count(".") == depth or (p.count(".") < depth and p not in whole)]


def _before_last(layer: nn.Module, parts: list[str]) -> str:
    """The last norm of a layer's parts, in the order they run, before the last that is no norm."""
    norms = [_is_norm(layer.get_submodule(part)) for part in parts]
    others = [place for place, norm in enumerate(norms) if not norm]
    if not others:
        return ""
    before = [part for part, norm in zip(parts[: others[-1]], norms, strict=False) if norm]
    return before[-1] if before else ""


def _is_norm(part: nn.Module) -> bool:
    return "norm" in type(part).__name__.lower()
