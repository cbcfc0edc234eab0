"""The tokenizer that the embedded CLIP and generator share: CLIP's, with a small vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], size: int, length: int) -> CLIPTokenizer:
    """A CLIPTokenizer with `size` tokens at most, learned from `texts`.

    Args:
        texts: captions.
        size: of the vocabulary; the bytes take 512.
        length: tokens a caption is cut or padded to.
    """
    untrained = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        # Less the start, the end, and the bytes that end words.
        vocab_size=size - 2 - 256,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer = Tokenizer.from_str(untrained.to_str())
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    # Every byte also ends words, whether or not the captions have one there.
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = [*symbols, *(f"{s}</w>" for s in symbols)]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split()) for m in learned["merges"]]
    known += [left + right for left, right in merges]
    # CLIP pools at the highest token, so the end comes last.
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*known, START, END]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
