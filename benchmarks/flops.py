"""Useful floating-point operations of one training step of a language model.

    per frozen weight and real token:   2 forward, 2 for the gradient with respect to the
                                        activations, 0 for the weight's own gradient
    QK^T and AV, per token pair:        4 head_dim per head forward, twice that backward

A pair is a real token and one it attends to, including itself: n (n + 1) / 2 pairs for n tokens,
the causal half. Padding, norms, activation functions, embeddings, the maps and the loss are not
counted. The forward pass ends at the last site, and backward computes no gradients below the first
site. Target activations are computed once, before the first step, and are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lineas_core.models.language.model import LanguageModel
from lineas_core.models.language.packing import TokenRows

SITE = ""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one step.

    Attributes:
        linear: of the frozen weights.
        attention: of QK^T and AV.
        tokens: number of tokens, without padding.
    """

    linear: int
    attention: int
    tokens: int

    @property
    def total(self) -> int:
        """`linear + attention`."""
        return self.linear + self.attention


@torch.no_grad()
def count_work(model: LanguageModel, source: TokenRows, sites: Sequence[str]) -> Work:
    """Count the operations of one step on the source prompts, as the module's docstring defines.

    Args:
        model: the steered model.
        source: the prompts of the step.
        sites: the sites of the map.
    """
    tokens, lengths = int(source.mask.sum()), source.mask.sum(dim=1).tolist()
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    named = dict(model.module.named_modules())
    begun = _order(model, source, sites)
    first = begun.index(SITE)
    last = len(begun) - 1 - begun[::-1].index(SITE)
    linear, attention = 0, 0
    for place, name in enumerate(begun[:last]):
        module, with_gradient = named[name], place > first
        if name == SITE:
            continue
        if _is_linear(module):
            linear += 2 * module.weight.numel() * tokens * (2 if with_gradient else 1)
        else:
            heads = model.module.config.num_attention_heads
            attention += 4 * heads * module.head_dim * pairs * (3 if with_gradient else 1)
    return Work(linear, attention, tokens)


def _order(model: LanguageModel, source: TokenRows, sites: Sequence[str]) -> list[str]:
    """Names of linear and attention modules in the order they run, with SITE after each site."""
    begun: list[str] = []

    def note(name: str, *_: object) -> None:
        begun.append(name)

    with ExitStack() as stack:
        for name, module in model.module.named_modules():
            if _is_linear(module) or _is_attention(module):
                stack.callback(module.register_forward_pre_hook(partial(note, name)).remove)
            if name in sites:
                stack.callback(module.register_forward_hook(partial(note, SITE)).remove)
        model.forward(source.rows([0]))
    return begun


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")
