"""Batches without padding: the real tokens of all prompts, packed into one row.

Norms, linear layers and hooks see one row of real tokens, so no time is spent on padding. Only
attention has to know which token belongs to which prompt, so only there does each prompt get a row
of its own.

`enable` switches a model's attention to packed batches, once; its outputs do not change.
transformers looks up attention functions by name, hence the two names registered here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lineas_core.hooks import one_row
from lineas_core.system.devices import indices_on

# Families that mix tokens only in attention, and look up their attention function by name.
FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "phi3", "olmo2",
    "smollm3", "granite",
)  # fmt: skip
PREFIX = "packed_"
# Number of token pairs that cost as much as the kernels of one more group.
GROUP = 4096

_current: ContextVar[Packing | None] = ContextVar("lineas_packing", default=None)


@dataclass(frozen=True)
class Packing:
    """Maps the real tokens of a padded batch to a packed row, and back.

    The host knows the lengths, so that no device is asked for a shape.

    Attributes:
        lengths: tokens of each prompt.
        places: indices of the real tokens in the flattened padded batch, short prompts first.
    """

    lengths: tuple[int, ...]
    places: Int[Tensor, " real"]
    _masks: dict[Any, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Packing:
        """The packing of a batch whose padding comes after its tokens.

        Args:
            lengths: tokens of each prompt.
            device: of the batch.
        """
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        rows = [range(i * max(lengths), i * max(lengths) + lengths[i]) for i in order]
        places = indices_on(torch.device(device), [*chain.from_iterable(rows)])
        return cls(tuple(lengths), places)

    @property
    def count(self) -> int:
        """Number of prompts."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest prompt."""
        return max(self.lengths)

    @cached_property
    def alike(self) -> bool:
        """Whether all prompts have the same length, so that packing is only a change of shape."""
        return len(set(self.lengths)) == 1

    @cached_property
    def groups(self) -> list[Packing]:
        """The packed row split into groups of prompts of similar length, each its own packing.

        The cost of attention grows with the number of token pairs in a padded batch, so short
        prompts should not share one with long prompts. Another group is added if it saves enough.
        """
        if self.alike:
            return [self]
        lengths = sorted(self.lengths)
        cuts = min(
            ([self.count * i // k for i in range(k + 1)] for k in range(1, min(4, self.count) + 1)),
            key=lambda c: sum((b - a) * lengths[b - 1] ** 2 + GROUP for a, b in pairwise(c)),
        )
        return [Packing.of(lengths[a:b], self.places.device) for a, b in pairwise(cuts)]

    @cached_property
    def positions(self) -> Int[Tensor, "1 real"]:
        """Position of each token in its prompt."""
        return (self.places % self.longest)[None]

    @cached_property
    def real(self) -> Bool[Tensor, "1 real"]:
        """True at each token of the row. A model that is given it looks for no rows of its own."""
        return torch.ones_like(self.positions, dtype=torch.bool)

    @cached_property
    def ends(self) -> Int[Tensor, " n"]:
        """Index in the packed row of each prompt's last token."""
        last = self.places.new_zeros(self.count)
        row = torch.arange(len(self.places), device=self.places.device)
        return last.scatter_reduce_(0, self.places // self.longest, row, "amax")

    @cached_property
    def begins(self) -> list[int]:
        """Index in the packed row of each prompt's first token."""
        order = sorted(range(self.count), key=self.lengths.__getitem__)
        found = [0] * self.count
        ends = accumulate(self.lengths[i] for i in order)
        for i, end in zip(order, ends, strict=True):
            found[i] = end - self.lengths[i]
        return found

    @cached_property
    def averages(self) -> Float[Tensor, "n real"]:
        """The matrix that, times a packed row, gives the mean over each prompt's tokens."""
        prompts = torch.arange(self.count, device=self.places.device)[:, None]
        belongs = (self.places // self.longest == prompts).float()
        return belongs / belongs.sum(dim=1, keepdim=True)

    @cached_property
    def _sources(self) -> Int[Tensor, " padded"]:
        """Index in the packed row for each place of the padded batch; arbitrary at padding."""
        sources = self.places.new_zeros(self.count * self.longest)
        sources[self.places] = torch.arange(len(self.places), device=self.places.device)
        return sources

    def spread(self, packed: Tensor) -> Tensor:
        """(real, ...) -> (n, longest, ...), with arbitrary values at the padding."""
        if self.alike:
            return packed.reshape(self.count, self.longest, *packed.shape[1:])
        flat = packed.flatten(1)
        rows: Tensor = _Spread.apply(
            flat, self._sources.to(flat.device), self.places.to(flat.device)
        )
        return rows.view(self.count, self.longest, *packed.shape[1:])

    def gathered(self, padded: Tensor) -> Tensor:
        """(n, longest, ...) -> (real, ...)."""
        if self.alike:
            return padded.flatten(0, 1)
        flat = padded.flatten(0, 1).flatten(1)
        row: Tensor = _Gather.apply(flat, self.places.to(flat.device))
        return row.view(len(self.places), *padded.shape[2:])

    def mask(self, like: Tensor, window: int | None) -> Float[Tensor, "1 1 longest longest"]:
        """The mask added to attention scores: causal, and within the window if there is one.

        Padding comes after the tokens, so no real token attends to it.
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
        """Within the block, and in this context only, tokens are treated as packed this way."""
        token = _current.set(self)
        row = one_row.set((self.places // self.longest, self.count))
        try:
            yield
        finally:
            one_row.reset(row)
            _current.reset(token)


class _Spread(torch.autograd.Function):
    """Packed to padded rows; the gradient of padding is ignored.

    Backward of indexing is a sum over indices, which is slow. Here every real row is taken exactly
    once, so backward is just another indexing.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sources: Tensor, places: Tensor) -> Tensor:
        ctx.places = places
        return rows.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.index_select(0, ctx.places), None, None


class _Gather(torch.autograd.Function):
    """Padded to packed rows: drops the padding, whose gradient is zero."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.places, ctx.shape = places, rows.shape
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.new_zeros(ctx.shape).index_copy_(0, ctx.places, gradient), None


def enable(module: transformers.PreTrainedModel) -> bool:
    """Switch a model's attention to packed batches; return whether its family supports them."""
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
        # Every family defines its own eager attention next to its modules.
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
            window = settings.get("sliding_window")
            # Without a mask, torch's own attention is causal, and takes its fastest kernel.
            plain = kind == "sdpa" and (not window or group.longest <= window)
            mask = None if plain else group.mask(q, window)
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


@dataclass(frozen=True)
class TokenRows:
    """Prompts as token ids, real tokens first, padding after them.

    A causal model never looks ahead, so padding after a prompt does not affect its tokens.

    Attributes:
        ids: token ids.
        mask: True at real tokens.
        lengths: tokens of each prompt, which the host knows.
        packs: whether the model runs them without padding.
        pads: whether padding may count among the tokens in `lengths`.
    """

    ids: Int[Tensor, "n tokens"]
    mask: Bool[Tensor, "n tokens"]
    lengths: tuple[int, ...]
    packs: bool = False
    pads: bool = False

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[int]], pad: int, device: torch.device, *, left: bool = False
    ) -> TokenRows:
        """The rows of token ids, padded to the longest.

        Args:
            rows: token ids of each prompt.
            pad: id at the padding.
            device: where they are to lie.
            left: whether padding comes before the tokens, as for texts that are to be continued.
        """
        longest = max(map(len, rows), default=0)
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            columns = slice(longest - len(row), longest) if left else slice(0, len(row))
            ids[i, columns] = torch.tensor(row)
            mask[i, columns] = True
        return cls(ids.to(device), mask.to(device), tuple(map(len, rows)))

    def __len__(self) -> int:
        return len(self.ids)

    def mask_at(self, tokens: int) -> Bool[Tensor, "n tokens"] | None:
        """The one mask, whatever a site puts out; None if no token is padding."""
        return None if self.full else self.mask

    def rows(self, indices: Sequence[int] | Tensor) -> TokenRows:
        """The given rows, without columns that are padding in all of them.

        A tensor of indices, on the device, gives rows of one shape whatever it holds, in which
        padding counts as tokens that the mask leaves out.
        """
        if isinstance(indices, Tensor):
            alike = (self.ids.shape[1],) * len(indices)
            pads = not self.full
            return TokenRows(self.ids[indices], self.mask[indices], alike, self.packs, pads)
        if list(indices) == list(range(len(self))):
            # What is derived from all rows, such as the packing, is derived once.
            return self
        lengths = tuple(self.lengths[i] for i in indices)
        chosen = indices_on(self.ids.device, indices)
        ids, mask = (x[chosen, : max(lengths)] for x in (self.ids, self.mask))
        return TokenRows(ids, mask, lengths, self.packs, self.pads)

    @contextmanager
    def passing(self) -> Iterator[dict[str, Any]]:
        """What a transformers model is called with, within the block, to run the rows."""
        if (packing := self.packing) is None:
            # Without a mask: padding comes after the tokens, which never look ahead.
            yield {"input_ids": self.ids, "use_cache": False}
            return
        with packing.active():
            yield {
                "input_ids": self.ids.flatten()[packing.places][None],
                "position_ids": packing.positions,
                "attention_mask": packing.real,
                "use_cache": False,
            }

    @cached_property
    def full(self) -> bool:
        """Whether no token is padding."""
        return not self.pads and len(set(self.lengths)) <= 1

    @cached_property
    def packing(self) -> Packing | None:
        """How to run the rows without padding; None to run them with it."""
        return Packing.of(self.lengths, self.ids.device) if self.packs else None
