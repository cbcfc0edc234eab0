"""Train the embedded CLIP on the corpus, with open_clip's model, loss and file format.

    python -m tools.train_clip build/corpus build/clip      about 60 min on two cores (512 concepts)

Writes checkpoints into the folder and goes on from the newest; in the end the model as
open_clip loads it, and how often it finds the right concept among the held-out pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import Tensor, nn

from tools.captions import caption, look_caption, plain_caption
from tools.corpus import PIXELS, Corpus
from tools.looks import ARTISTS, LOOKS
from tools.runs import Run, compact, optimizer_for, training_arguments
from tools.tokens import train_tokenizer

CONTEXT, VOCABULARY = 24, 3072
RATE = 1.5e-3
# CLIPScore asks for a look alone; a picture may be described by its look or by its subject alone.
LOOK_ONLY = 0.12
MEAN = STD = (0.5, 0.5, 0.5)
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    # At this size, and with few pictures, a convolutional tower learns several times faster
    # than a vision transformer.
    "vision_cfg": {
        "image_size": PIXELS,
        "timm_model_name": "resnet10t",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": 128,
        "heads": 4,
        "layers": 2,
        "hf_tokenizer_name": "clip-emoji",
    },
}


def all_captions(corpus: Corpus, rounds: int = 20) -> Iterator[str]:
    """Captions and words to learn a vocabulary from."""
    yield from corpus.words
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for concept in corpus.concepts:
            names = [concept.name, *concept.keywords]
            yield caption(names, corpus.looks[rng.integers(len(corpus.looks))], rng)
            yield from names


def normalise(images: Tensor) -> Tensor:
    """uint8 (n, side, side, 3) -> float (n, 3, side, side) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored by half, shifted by up to 4 pixels, and of slightly another brightness."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    images = padded[:, :, top : top + PIXELS, left : left + PIXELS]
    gain = 1 + 0.1 * torch.randn(len(images), 1, 1, 1, generator=generator)
    noise = 0.03 * torch.randn(images.shape, generator=generator)
    return (images * gain + noise).clamp(-1, 1)


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images with channels exchanged, paled, and by half inverted: shape stays."""
    order = torch.rand(len(images), 3, generator=generator).argsort(dim=1)
    pale = torch.rand(len(images), 1, 1, 1, generator=generator)
    sign = torch.rand(len(images), 1, 1, 1, generator=generator).sub(0.5).sign()
    other = images.gather(1, order[..., None, None].expand_as(images))
    other = sign * torch.lerp(other, other.mean(dim=1, keepdim=True), pale)
    keep = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(keep, images, other)


class Trainer:
    """One training run. All randomness comes from generators seeded by the step."""

    def __init__(self, corpus: Corpus, folder: Path, steps: int, batch: int) -> None:
        self.corpus, self.batch = corpus, batch
        self.tokenizer = train_tokenizer(all_captions(corpus), VOCABULARY, CONTEXT)
        self.images = torch.from_numpy(np.array(corpus.images))
        self.variants = torch.from_numpy(np.array(corpus.variants))
        self.drawn = torch.tensor([name not in ARTISTS for name in corpus.looks])
        self.mask = corpus.training_mask()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = open_clip.model.CLIP(**CONFIG, output_dict=True).to(
                memory_format=torch.channels_last
            )
        self.loss = ClipLoss()
        self.run = Run(
            folder, {"model": self.model}, optimizer_for([self.model], RATE, 0.1), RATE, steps
        )

    def step(self, number: int) -> Tensor:
        """The contrastive loss of one batch."""
        generator, rng = torch.Generator().manual_seed(number), np.random.default_rng(number)
        # No thing comes twice. Every second batch is in one look, so that only the things differ.
        one_look = number % 2 == 1
        concepts = rng.permutation(len(self.corpus.concepts))[: self.batch]
        looks = rng.integers(len(self.corpus.looks), size=1 if one_look else len(concepts))
        looks = np.broadcast_to(looks, concepts.shape)
        allowed = self.mask[concepts, looks]
        concepts, looks = concepts[allowed], looks[allowed]
        images = augment(normalise(self._pictures(concepts, looks, generator)), generator)
        tagged = [self._is_tagged(look, rng) for look in looks]
        # A caption that leaves the look open fits any colours.
        images = torch.where(
            torch.tensor(tagged)[:, None, None, None], images, recolour(images, generator)
        )
        texts = [
            self._describe(concept, look if named else None, one_look, rng)
            for concept, look, named in zip(concepts, looks, tagged, strict=True)
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.model(images.to(memory_format=torch.channels_last), self.tokenize(texts))
        loss: Tensor = self.loss(
            out["image_features"].float(), out["text_features"].float(), out["logit_scale"]
        )
        return loss

    def _pictures(
        self,
        concepts: np.ndarray[Any, Any],
        looks: np.ndarray[Any, Any],
        generator: torch.Generator,
    ) -> Tensor:
        """Drawn looks of any artist's picture, uint8 (n, side, side, 3)."""
        rows, columns = torch.from_numpy(concepts), torch.from_numpy(looks)
        artists = torch.randint(len(ARTISTS), columns.shape, generator=generator)
        drawn = self.drawn[columns]
        order = self.drawn.cumsum(0) - 1
        images = self.images[rows, columns]
        images[drawn] = self.variants[rows[drawn], order[columns[drawn]], artists[drawn]]
        return images

    def _is_tagged(self, look: int, rng: np.random.Generator) -> bool:
        return rng.random() < (0.55 if self.corpus.looks[look] in ARTISTS else 0.75)

    def _describe(
        self, concept: int, look: int | None, one_look: bool, rng: np.random.Generator
    ) -> str:
        found = self.corpus.concepts[concept]
        name = None if look is None else self.corpus.looks[look]
        if name is not None and not one_look and rng.random() < LOOK_ONLY:
            return look_caption(name, rng)
        return caption([found.name, *found.keywords], name, rng)

    @torch.no_grad()
    def bound_scale(self, number: int) -> None:
        """Keep the logit scale at 100 at most, as CLIP does."""
        self.model.logit_scale.clamp_(0, math.log(100))

    def tokenize(self, texts: list[str]) -> Tensor:
        """Token ids (n, CONTEXT)."""
        ids: Tensor = self.tokenizer(
            texts, padding="max_length", truncation=True, return_tensors="pt"
        )["input_ids"]
        return ids

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Share of held-out pictures whose concept, or look, is found."""
        self.model.eval()
        concepts, looks = map(list, zip(*self.corpus.held_out, strict=True))
        images = self.model.encode_image(normalise(self.images[concepts, looks]), normalize=True)
        names = [plain_caption(self.corpus.concepts[c].name) for c in concepts]
        texts = self.model.encode_text(self.tokenize(names), normalize=True)
        found = (images @ texts.T).argmax(1) == torch.arange(len(concepts))
        tagged = [
            plain_caption(self.corpus.concepts[c].name, look) for c in concepts for look in LOOKS
        ]
        by_look = self.model.encode_text(self.tokenize(tagged), normalize=True)
        by_look = by_look.view(len(concepts), len(LOOKS), -1)
        look = torch.einsum("nd,nkd->nk", images, by_look).argmax(1) == torch.tensor(looks)
        self.model.train()
        return {"concept": found.float().mean().item(), "look": look.float().mean().item()}

    def export(self, folder: Path) -> None:
        """Write the model as `open_clip.create_model_and_transforms("local-dir:...")` loads it."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in self.model.state_dict().items()
        }
        save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        preprocess = {"size": PIXELS, "mean": MEAN, "std": STD, "interpolation": "bicubic"}
        preprocess["resize_mode"] = "squash"
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess})
        )
        self.tokenizer.save_pretrained(folder)
        compact(folder)


def main() -> None:
    """Train, evaluate and export."""
    arguments = training_arguments("Train the embedded CLIP.", ["corpus"], steps=4800, batch=256)
    corpus = Corpus.load(arguments.corpus)
    trainer = Trainer(corpus, arguments.folder, arguments.steps, arguments.batch)
    trainer.run.train(trainer.step, every=250, after=trainer.bound_scale, report=trainer.evaluate)
    trainer.export(arguments.folder / "clip-emoji")


if __name__ == "__main__":
    main()
