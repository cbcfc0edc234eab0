"""Batches without padding: the real tokens of all prompts, one prompt after the other.

Norms, linear layers and hooks see one row of real tokens, and pay for no others. Attention alone
has to know which token belongs to which prompt: there, and only there, prompts lie one a row.

A model is told once, by `enable`, that its attention may be asked so; it computes what it did
before. transformers looks its attention up by name, hence the two names registered here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lineas_core.steering import one_row

# Families whose tokens meet in attention only, and whose attention asks for its function by name.
FAMILIES = ("llama", "mistral", "qwen2", "gemma2", "gpt2")
PREFIX = "packed_"
# Pairs of places that cost as much as the kernels of one more group.
GROUP = 4096

_current: ContextVar[Packing | None] = ContextVar("lineas_packing", default=None)


@dataclass(frozen=True)
class Packing:
    """Where each real token of a padded batch lies in the packed row, and back.

    Attributes:
        count: prompts.
        longest: tokens of the longest.
        places: of the real tokens in the flattened padded batch, short prompts first.
    """

    count: int
    longest: int
    places: Int[Tensor, " real"]
    _masks: dict[Any, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, mask: Bool[Tensor, "n tokens"]) -> Packing:
        """The packing of a batch whose padding comes after its tokens."""
        order = mask.sum(dim=1).argsort(stable=True)
        prompt, token = mask[order].nonzero(as_tuple=True)
        return cls(len(mask), mask.shape[1], order[prompt] * mask.shape[1] + token)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        found: list[int] = torch.bincount(
            self.places // self.longest, minlength=self.count
        ).tolist()
        return found

    @cached_property
    def groups(self) -> list[Packing]:
        """The packed row cut into prompts of like length, each a packing of its own.

        Attention pays for every pair of places in its batch, so short prompts had better not lie
        beside long ones. A group more is worth it where it saves pairs enough.
        """
        lengths = sorted(self.lengths)
        cuts = min(
            ([self.count * i // k for i in range(k + 1)] for k in range(1, min(4, self.count) + 1)),
            key=lambda c: sum((b - a) * lengths[b - 1] ** 2 + GROUP for a, b in pairwise(c)),
        )
        found = []
        for first, end in pairwise(cuts):
            inside = torch.tensor(lengths[first:end], device=self.places.device)[:, None]
            real = torch.arange(lengths[end - 1], device=self.places.device) < inside
            found.append(Packing(end - first, lengths[end - 1], real.flatten().nonzero()[:, 0]))
        return found

    @cached_property
    def positions(self) -> Int[Tensor, "1 real"]:
        """Of each token in its prompt."""
        return (self.places % self.longest)[None]

    @cached_property
    def ends(self) -> Int[Tensor, " n"]:
        """Where in the packed row each prompt has its last token."""
        last = self.places.new_zeros(self.count)
        row = torch.arange(len(self.places), device=self.places.device)
        return last.scatter_reduce_(0, self.places // self.longest, row, "amax")

    @cached_property
    def averages(self) -> Float[Tensor, "n real"]:
        """Times a packed row, the mean over each prompt's tokens."""
        prompts = torch.arange(self.count, device=self.places.device)[:, None]
        belongs = (self.places // self.longest == prompts).float()
        return belongs / belongs.sum(dim=1, keepdim=True)

    @cached_property
    def _sources(self) -> Int[Tensor, " padded"]:
        """For each place of the padded batch its token in the packed row; at padding any."""
        sources = self.places.new_zeros(self.count * self.longest)
        sources[self.places] = torch.arange(len(self.places), device=self.places.device)
        return sources

    def spread(self, packed: Tensor) -> Tensor:
        """(real, ...) -> (n, longest, ...), with whatever at the padding."""
        flat = packed.flatten(1)
        rows: Tensor = _Spread.apply(
            flat, self._sources.to(flat.device), self.places.to(flat.device)
        )
        return rows.view(self.count, self.longest, *packed.shape[1:])

    def gathered(self, padded: Tensor) -> Tensor:
        """(n, longest, ...) -> (real, ...)."""
        flat = padded.flatten(0, 1).flatten(1)
        row: Tensor = _Gather.apply(flat, self.places.to(flat.device))
        return row.view(len(self.places), *padded.shape[2:])

    def mask(self, like: Tensor, window: int | None) -> Float[Tensor, "1 1 longest longest"]:
        """What is added to attention's scores: nothing looks ahead, or back beyond the window.

        Padding comes after the tokens, so no real token sees any.
        """
        key = like.dtype, like.device, window
        if key not in self._masks:
            shape = self.longest, self.longest
            hidden = torch.ones(shape, dtype=torch.bool, device=like.device).triu(1)
            if window:
                hidden |= torch.ones_like(hidden).tril(-window)
            low = torch.finfo(like.dtype).min
            self._masks[key] = like.new_zeros(shape).masked_fill(hidden, low)[None, None]
        return self._masks[key]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block, and in this context only, tokens are taken as packed so."""
        token = _current.set(self)
        row = one_row.set((self.places // self.longest, self.count))
        try:
            yield
        finally:
            one_row.reset(row)
            _current.reset(token)


class _Spread(torch.autograd.Function):
    """Rows in another order, some of them for padding, whose gradient is zero.

    The gradient of an index is a sum over indices, which is slow. Here every row that counts is
    taken exactly once, so that the gradient is an index again.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sources: Tensor, places: Tensor) -> Tensor:
        ctx.places = places
        return rows.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.index_select(0, ctx.places), None, None


class _Gather(torch.autograd.Function):
    """The way back: padding is dropped, and has no gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.places, ctx.shape = places, rows.shape
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.new_zeros(ctx.shape).index_copy_(0, ctx.places, gradient), None


def enable(module: transformers.PreTrainedModel) -> bool:
    """Let a model's attention take packed batches, if it is of a family known to bear it."""
    config: Any = module.config
    kind = config._attn_implementation
    if kind.startswith(PREFIX):
        return True
    if config.model_type not in FAMILIES or kind not in ("eager", "sdpa"):
        return False
    module.set_attn_implementation(PREFIX + kind)
    return True


def _attention(kind: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attend(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **settings: Any
    ) -> tuple[Tensor, Tensor | None]:
        # Every family keeps its own plain attention beside its modules.
        own = (
            ALL_ATTENTION_FUNCTIONS.get(kind)
            or vars(sys.modules[type(module).__module__])["eager_attention_forward"]
        )
        packing = _current.get()
        if packing is None:
            found: tuple[Tensor, Tensor | None] = own(module, q, k, v, mask, **settings)
            return found
        sizes = [len(group.places) for group in packing.groups]
        rows = (x[0].transpose(0, 1).split(sizes) for x in (q, k, v))
        parts = []
        for group, *pieces in zip(packing.groups, *rows, strict=True):
            q, k, v = (group.spread(piece).transpose(1, 2) for piece in pieces)
            mask = group.mask(q, settings.get("sliding_window"))
            parts.append(group.gathered(own(module, q, k, v, mask, **settings)[0]))
        return torch.cat(parts)[None], None

    return attend


def _mask(kind: str) -> Callable[..., Any]:
    def make(*sizes: Any, **settings: Any) -> Any:
        if _current.get() is not None:
            return None
        return ALL_MASK_ATTENTION_FUNCTIONS[kind](*sizes, **settings)

    return make


for _kind in ("eager", "sdpa"):
    ALL_ATTENTION_FUNCTIONS.register(PREFIX + _kind, _attention(_kind))
    ALL_MASK_ATTENTION_FUNCTIONS.register(PREFIX + _kind, _mask(_kind))
