"""The tokenizer that the embedded CLIP and generator share: CLIP's, with a small vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], size: int, length: int) -> CLIPTokenizer:
    """A CLIPTokenizer with at most `size` tokens, trained on `texts`.

    Args:
        texts: captions.
        size: of the vocabulary, of which the bytes take 512.
        length: number of tokens that captions are truncated or padded to.
    """
    untrained = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        # Minus the start and end tokens, and the word-final bytes, which are added below.
        vocab_size=size - 2 - 256,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer = Tokenizer.from_str(untrained.to_str())
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    # Add every byte in its word-final form as well, even if no caption has it there.
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = [*symbols, *(f"{s}</w>" for s in symbols)]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split()) for m in learned["merges"]]
    known += [left + right for left, right in merges]
    # CLIP pools at the highest token id, so the end token must come last.
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*known, START, END]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
