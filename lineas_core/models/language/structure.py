"""Finds the norms of a model's layers by running it, for families that no preset knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
import transformers
from torch import nn

from lineas_core.models.language.batching import few_tokens

TOKENS = 4


@torch.no_grad()
def text_order(module: transformers.PreTrainedModel) -> list[str]:
    """Names of the modules that run when the model reads text, in the order in which they end."""
    names = {part: name for name, part in module.named_modules()}
    order: dict[str, None] = {}

    def note(part: nn.Module, *_: object) -> None:
        order.setdefault(names[part])

    hooks = [part.register_forward_hook(note) for part in names]
    try:
        module.base_model(input_ids=few_tokens(module, TOKENS), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return list(order)


def mlp_norms(module: nn.Module, order: Sequence[str]) -> str:
    """A regular expression for the norm in each layer that feeds its MLP, or its only mixer.

    That is the last norm which runs before the last other part of the layer. Layers are the
    elements of the largest list of modules that text reaches. "" if there are none.

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
        chosen = _before_last(layer, [part for part in parts if "." not in part])
        if chosen:
            found.setdefault(chosen)
    if not found:
        return ""
    ends = "|".join(re.escape(name) for name in found)
    return rf"{re.escape(best)}\.\d+\.({ends})"


def _lists(module: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList):
            yield name, part


def _before_last(layer: nn.Module, parts: list[str]) -> str:
    """The last norm of a layer's parts, in the order they run, before the last that is no norm."""
    norms = [_is_norm(getattr(layer, part)) for part in parts]
    others = [place for place, norm in enumerate(norms) if not norm]
    if not others:
        return ""
    before = [part for part, norm in zip(parts[: others[-1]], norms, strict=False) if norm]
    return before[-1] if before else ""


def _is_norm(part: nn.Module) -> bool:
    return "norm" in type(part).__name__.lower()
