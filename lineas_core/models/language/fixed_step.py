"""The step of one token over tensors that stay at their place, so that it can be a CUDA graph.

The cache of each layer has room for tokens to come, and the step writes the keys and values of its
token at a column that lies on the device. The mask of a model compares columns with that one, which
hides those to come. Layers with a sliding window keep all tokens too, and leave it to the mask to
hide those outside the window: a cache that forgets them needs the host to count.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

# Attention kernels of GPUs copy a mask whose rows do not begin at multiples of so many columns.
ALIGNED = 16
# Settings of a model that leave its logits as they are, but for the penalty.
PLAIN = {
    "repetition_penalty", "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h",
    "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length", "max_new_tokens", "pad_token_id",
    "bos_token_id", "eos_token_id", "use_cache", "transformers_version", "_from_model_config",
}  # fmt: skip


class FixedStep:
    """Writes the next token of each row, and reads nothing back.

    Args:
        module: the model.
        ids: tokens of the left-padded rows, shape (n, tokens).
        mask: 0 at padding, shape (n, tokens) or fewer columns, of the first tokens.
        layers: keys and values of each layer, shape (n, heads, tokens, d), of all tokens but the
            last, or of as many before it as a window needs.
        processors: what changes the logits before the likeliest token is taken, in order, after the
            penalty for repeated tokens that some models ask for; called with `ids` and the logits.
        room: number of tokens to be written.

    Attributes:
        ids: tokens of the rows, and places of those to come, shape (n, tokens + room).
    """

    def __init__(
        self,
        module: transformers.PreTrainedModel,
        ids: Tensor,
        mask: Tensor,
        layers: Iterable[Sequence[Tensor]],
        processors: Sequence[Any],
        room: int,
    ) -> None:
        self._module, self._processors = module, processors
        cached = ids.shape[1] - 1
        capacity = -(-(cached + room) // ALIGNED) * ALIGNED
        # The penalty sees places to come too, and one that is due twice is given once.
        self.ids = torch.cat([ids, ids[:, -1:].expand(-1, room)], dim=1)
        penalty = module.generation_config.repetition_penalty
        self._penalties = []
        if penalty not in (None, 1):
            self._penalties.append(
                transformers.RepetitionPenaltyLogitsProcessor(
                    float(penalty), prompt_ignore_length=(mask != 0).int().argmax(dim=1)
                )
            )
        self._mask = mask.new_ones(len(ids), capacity)
        self._mask[:, : mask.shape[1]] = mask
        self._column = torch.full((1,), cached, device=ids.device)
        roomy = ([_with_room(x, cached, capacity) for x in pair] for pair in layers)
        self._cache = Cache([_FixedLayer(k, v, self._column) for k, v in roomy])
        self._positions = {}
        if "position_ids" in inspect.signature(module.forward).parameters:
            self._positions["position_ids"] = self._mask[:, :cached].sum(dim=1, keepdim=True)

    def __call__(self) -> None:
        """Write one token of each row."""
        logits = self._module(
            input_ids=self.ids.index_select(1, self._column),
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **self._positions,
        ).logits
        scores = logits[:, -1].float()
        for process in (*self._penalties, *self._processors):
            scores = process(self.ids, scores)
        # What goes on from step to step changes last, so that a step that failed can run again.
        self._column.add_(1)
        for positions in self._positions.values():
            positions.add_(1)
        self.ids.index_copy_(1, self._column, scores.argmax(dim=1, keepdim=True))

    def keep(self, rows: Tensor, length: int, room: int) -> FixedStep:
        """The step that goes on with some rows, in place of this one.

        Args:
            rows: their indices.
            length: tokens of a row so far.
            room: number of tokens to be written.
        """
        layers = ([x[rows, :, : length - 1] for x in pair] for pair in taken(self._cache))
        ids, mask = self.ids[rows, :length], self._mask[rows, :length]
        return FixedStep(self._module, ids, mask, layers, self._processors, room)


def has_fixed_size(cache: object) -> bool:
    """Whether each layer of a cache holds keys and values of all tokens, or of a window of them."""
    kinds = DynamicLayer, DynamicSlidingWindowLayer
    return isinstance(cache, Cache) and all(type(layer) in kinds for layer in cache.layers)


def taken(cache: Cache) -> Iterator[Sequence[Tensor]]:
    """Keys and values of each layer, which the cache lets go of, so that they are there once."""
    for layer in cache.layers:
        pair = layer.keys, layer.values
        layer.keys = layer.values = None
        yield pair


def is_plain(settings: transformers.GenerationConfig) -> bool:
    """Whether a model's own settings change no logits but by a penalty for repeated tokens.

    `generate` follows them wherever its caller sets nothing else.
    """
    told = settings.to_diff_dict().items()
    return all(name in PLAIN for name, value in told if value not in (None, False))


def shortest_window(module: transformers.PreTrainedModel) -> int | None:
    """Number of tokens that the layer with the shortest sliding window sees; None without one."""
    cache = transformers.DynamicCache(config=module.config.get_text_config(decoder=True))
    windows = [w for layer in cache.layers if (w := getattr(layer, "sliding_window", None))]
    return min(windows, default=None)


class _FixedLayer(StaticLayer):
    """One layer's keys and values, written at a column that all layers share."""

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys, self.values, self._column = keys, values, column
        self.is_initialized = True

    def update(
        self, keys: Tensor, values: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self._column, keys)
        self.values.index_copy_(2, self._column, values)
        return self.keys, self.values

    def get_seq_length(self) -> Tensor:
        return self._column[0]


def _with_room(x: Tensor, cached: int, capacity: int) -> Tensor:
    """(n, heads, tokens, d), the last before column `cached` -> (n, heads, capacity, d).

    Zeros elsewhere: what is masked gets no weight, and no weight of a NaN is a NaN.
    """
    n, heads, tokens, d = x.shape
    roomy = x.new_zeros(n, heads, capacity, d)
    roomy[:, :, cached - tokens : cached] = x
    return roomy
