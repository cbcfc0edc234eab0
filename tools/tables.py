"""The corpus and its captions as tensors on the device, from which batches are drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from tools.captions import framed, look_caption, tagged
from tools.corpus import Corpus, cell_of
from tools.device import DEVICE
from tools.looks import ARTISTS
from tools.tokens import train_tokenizer

CONTEXT, VOCABULARY = 24, 4096
WORDINGS, LOOK_WORDINGS = 12, 30


def normalise(images: Tensor) -> Tensor:
    """uint8 (n, side, side, 3) -> float (n, 3, side, side) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def as_bytes(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """float (..., 3, side, side) in [-1, 1] -> uint8 (..., side, side, 3)."""
    pixels = ((images.clamp(-1, 1).movedim(-3, -1) + 1) * 127.5).round().byte()
    found: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = pixels.cpu().numpy()
    return found


class Tables:
    """The data that all training scripts sample from.

    Attributes:
        images: uint8 (concepts, artists, 1 + drawn looks, side, side, 3).
        allowed: bool (concepts, looks): false where the pair is held out.
        untagged: token ids (concepts, looks, WORDINGS, CONTEXT) of sentences without a look;
            it has a looks axis only to match the shape of `tagged`.
        tagged: the same sentences with a wording of the look.
        look_only: token ids (looks, LOOK_WORDINGS, CONTEXT) of captions that name only a look.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.concepts, self.looks = len(corpus.concepts), len(corpus.looks)
        self.pixels = corpus.images.shape[-2]
        self.images = torch.from_numpy(np.array(corpus.images)).to(DEVICE)
        self.allowed = torch.from_numpy(corpus.training_mask()).to(DEVICE)
        self.tokenizer = train_tokenizer(_vocabulary(corpus), VOCABULARY, CONTEXT)
        rng = np.random.default_rng(0)
        plain, named = [], []
        for concept in corpus.concepts:
            names = [concept.name, *concept.keywords]
            for look in corpus.looks:
                texts = [framed(names, rng) for _ in range(WORDINGS)]
                plain += texts
                named += [tagged(text, look, rng) for text in texts]
        shape = (self.concepts, self.looks, WORDINGS, CONTEXT)
        self.untagged = self.tokenize(plain).view(shape)
        self.tagged = self.tokenize(named).view(shape)
        only = [look_caption(look, rng) for look in corpus.looks for _ in range(LOOK_WORDINGS)]
        self.look_only = self.tokenize(only).view(self.looks, LOOK_WORDINGS, CONTEXT)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Token ids (n, CONTEXT) on the device."""
        ids: Tensor = tokenize(self.tokenizer, texts)
        return ids.to(DEVICE)

    def pictures(self, concepts: Tensor, artists: Tensor, columns: Tensor) -> Tensor:
        """Pictures in [-1, 1], (n, 3, side, side), in channels_last memory format."""
        return normalise(self.images[concepts, artists, columns])

    def random_pictures(self, count: int) -> Tensor:
        """Sample training pictures, with equal probabilities."""
        concepts = torch.randint(self.concepts, (count,), device=DEVICE)
        artists = torch.randint(len(ARTISTS), (count,), device=DEVICE)
        columns = torch.randint(self.images.shape[2], (count,), device=DEVICE)
        looks = torch.where(columns > 0, columns + len(ARTISTS) - 1, artists)
        # At most one look per concept is held out, so the next column is always allowed.
        columns = torch.where(
            self.allowed[concepts, looks], columns, (columns + 1) % self.images.shape[2]
        )
        return self.pictures(concepts, artists, columns)

    def held_out(self) -> Tensor:
        """The held-out pictures, in the format of `pictures`."""
        cells = [(c, *cell_of(k)) for c, k in self.corpus.held_out]
        concepts, artists, columns = torch.tensor(cells, device=DEVICE).T
        return self.pictures(concepts, artists, columns)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids (n, CONTEXT), by the tokenizer's backend, several times faster for many texts."""
    backend, end = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    backend.enable_truncation(CONTEXT)
    backend.enable_padding(length=CONTEXT, pad_id=end, pad_token=tokenizer.eos_token)
    ids = np.array([found.ids for found in backend.encode_batch_fast(texts)], np.int64)
    return torch.from_numpy(ids)


def column_of(looks: Tensor) -> Tensor:
    """Column of each look in `Tables.images`: 0 for an artist, 1 and up for a drawn look."""
    return (looks - len(ARTISTS) + 1).clamp(min=0)


def flipped(images: Tensor, where: Tensor) -> Tensor:
    """Mirror left to right the images where `where`, bool (n,), is true."""
    return torch.where(where[:, None, None, None], images.flip(3), images)


def _vocabulary(corpus: Corpus, rounds: int = 20) -> Iterator[str]:
    yield from corpus.words
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for concept in corpus.concepts:
            names = [concept.name, *concept.keywords]
            yield tagged(framed(names, rng), corpus.looks[rng.integers(len(corpus.looks))], rng)
            yield from names
