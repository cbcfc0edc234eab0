"""Prompts, maps and models of given sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

import lineas_core as lc
from lineas_core.activations import execution_order, pooled_activations
from lineas_core.steerable import Steerable

SHIPPED = "football"
# Vocabulary size of the models with random weights; small enough for every config.
WORDS = 200


def cut_prompts(
    tokenizer: PreTrainedTokenizerBase, count: int, shortest: int, longest: int
) -> lc.PromptSet:
    """`count` source and target prompts, with token counts spaced evenly from shortest to longest.

    They are sentences of a shipped set, joined and cut with the tokenizer; always the same.

    Raises:
        PromptError: no text tokenizes to exactly one of the lengths.
    """
    steps = max(1, count - 1)
    lengths = [shortest + round(i * (longest - shortest) / steps) for i in range(count)]
    sides = lc.PromptSet.load(SHIPPED)
    return lc.PromptSet(
        name=f"{count} of {shortest} to {longest} tokens",
        source=[_cut(tokenizer, sides.source, i, n) for i, n in enumerate(lengths)],
        target=[_cut(tokenizer, sides.target, i, n) for i, n in enumerate(lengths)],
    )


def random_prompts(count: int, tokens: int, seed: int = 0) -> lc.PromptSet:
    """Source and target prompts, each of `tokens` random words of `random_model`'s tokenizer."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(WORDS, (2, count, tokens), generator=generator).tolist()
    source, target = ([" ".join(map(str, row)) for row in side] for side in drawn)
    return lc.PromptSet(name=f"{count} of {tokens} tokens", source=source, target=target)


def random_model(
    id: str, config: PretrainedConfig, device: torch.device, dtype: torch.dtype
) -> lc.LanguageModel:
    """A model with random weights whose vocabulary is the words "0" to "199", one token each."""
    torch.manual_seed(0)
    # Choose the attention as `load_model` does.
    attention: dict[str, Any] = {"attn_implementation": "eager"} if device.type == "cpu" else {}
    with device:
        module = AutoModelForCausalLM.from_config(config, dtype=dtype, **attention)
    vocabulary = {str(number): number for number in range(WORDS)}
    words = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0")
    return lc.LanguageModel(id, module, tokenizer)


def random_map(
    model: Steerable, sites: Sequence[str], prompt: str, seed: int = 0
) -> lc.SteeringMap:
    """A random map near the identity; the cost of a map does not depend on its values."""
    inputs = model.prepare([prompt])
    order = execution_order(model, inputs, sites)
    generator = torch.Generator().manual_seed(seed)
    return lc.SteeringMap(
        {
            site: lc.Affine(
                1 + 0.05 * torch.randn(z.shape[1], generator=generator),
                0.02 * torch.randn(z.shape[1], generator=generator),
            )
            for site, z in pooled_activations(model, inputs, order).items()
        },
        lc.MapInfo(model=model.id, method="random", name=f"random {seed}"),
    )


def _cut(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], first: int, length: int
) -> str:
    """A text of exactly `length` tokens, from the first sentence on that gives one when cut."""
    for start in range(first, first + len(sentences)):
        turned = [sentences[(start + i) % len(sentences)] for i in range(len(sentences))]
        ids = tokenizer(" ".join(turned))["input_ids"]
        text: str = tokenizer.decode(ids[:length], skip_special_tokens=True)
        if len(tokenizer(text)["input_ids"]) == length:
            return text
    raise lc.PromptError(f"This tokenizer gives no prompt of {length} tokens. Try another length.")
