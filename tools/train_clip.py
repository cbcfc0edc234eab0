"""Train the embedded CLIP on the corpus, with open_clip's model, loss and file format.

    python -m tools.train_clip build/corpus build/clip

Writes checkpoints into the folder and resumes from the newest. At the end it writes the model in
open_clip's format, and how often it recognises the right concept among the held-out pairs. Its
input is 64 pixels, whatever the corpus's size.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import Tensor, nn

from tools.captions import plain_caption
from tools.corpus import Corpus
from tools.device import DEVICE, Compiled, autocast
from tools.looks import ARTISTS, LOOKS
from tools.runs import Length, Run, compact, optimizer_for, training_arguments
from tools.tables import (
    CONTEXT,
    LOOK_WORDINGS,
    VOCABULARY,
    WORDINGS,
    Tables,
    column_of,
    flipped,
    normalise,
)

__all__ = ["CLIP_PIXELS", "CONFIG", "Trainer", "augment", "normalise", "shrink"]

CLIP_PIXELS = 64
RATE = 1.5e-3
# Share of captions with a look that name only the look, because CLIPScore compares with a look
# alone. None in batches of one look.
LOOK_ONLY = 0.12
MEAN = STD = (0.5, 0.5, 0.5)
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    # With a small model and few pictures, a convolutional tower learns several times faster than
    # a vision transformer.
    "vision_cfg": {
        "image_size": CLIP_PIXELS,
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


def shrink(images: Tensor) -> Tensor:
    """Scale to the CLIP's input size with area averaging."""
    if images.shape[-1] == CLIP_PIXELS:
        return images
    return nn.functional.interpolate(images, size=(CLIP_PIXELS, CLIP_PIXELS), mode="area")


def augment(images: Tensor) -> Tensor:
    """Mirror half of the images, shift by up to 4 pixels, and vary the brightness slightly."""
    count, side, device = len(images), images.shape[-1], images.device
    images = flipped(images, torch.rand(count, device=device) < 0.5)
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    shifts = torch.randint(0, 9, (2,), device=device)
    span = torch.arange(side, device=device)
    images = padded.index_select(2, span + shifts[0]).index_select(3, span + shifts[1])
    gain = 1 + 0.1 * torch.randn(count, 1, 1, 1, device=device)
    return (images * gain + 0.03 * torch.randn_like(images)).clamp(-1, 1)


def recolour(images: Tensor) -> Tensor:
    """Change the colours of half of the images (permuted, faded, half inverted), not the shapes."""
    count, device = len(images), images.device
    order = torch.rand(count, 3, device=device).argsort(dim=1)
    pale = torch.rand(count, 1, 1, 1, device=device)
    sign = torch.rand(count, 1, 1, 1, device=device).sub(0.5).sign()
    other = images.gather(1, order[..., None, None].expand_as(images))
    other = sign * torch.lerp(other, other.mean(dim=1, keepdim=True), pale)
    keep = torch.rand(count, 1, 1, 1, device=device) < 0.5
    return torch.where(keep, images, other)


class Trainer:
    """One training run."""

    def __init__(self, tables: Tables, folder: Path, length: Length, batch: int) -> None:
        self.tables, self.batch = tables, min(batch, tables.concepts)
        torch.manual_seed(0)
        self.model = open_clip.model.CLIP(**CONFIG, output_dict=True).to(DEVICE)
        self.model.to(memory_format=torch.channels_last)
        self.see, self.read = Compiled(self.model.visual), Compiled(self.model.encode_text)
        self.loss = ClipLoss()
        self.run = Run(
            folder, {"model": self.model}, [optimizer_for([self.model], RATE, 0.1)], length
        )

    def step(self, progress: Tensor) -> Tensor:
        """The contrastive loss of one batch."""
        tables, count = self.tables, self.batch
        # Concepts are distinct. Half of the batches use one look, so that only concepts differ.
        concepts = torch.rand(tables.concepts, device=DEVICE).argsort()[:count]
        looks = torch.randint(tables.looks, (count,), device=DEVICE)
        one_look = torch.rand(1, device=DEVICE) < 0.5
        looks = torch.where(one_look, looks[:1], looks)
        looks = torch.where(tables.allowed[concepts, looks], looks, (looks + 1) % tables.looks)
        is_artist = looks < len(ARTISTS)
        artists = torch.randint(len(ARTISTS), (count,), device=DEVICE)
        artists = torch.where(is_artist, looks, artists)
        images = augment(shrink(tables.pictures(concepts, artists, column_of(looks))))
        named = torch.rand(count, device=DEVICE) < 0.75 - 0.2 * is_artist.float()
        # Recolour images whose caption does not name the look, since it fits any colours.
        images = torch.where(named[:, None, None, None], images, recolour(images))
        wording = torch.randint(WORDINGS, (count,), device=DEVICE)
        where = (concepts, looks, wording)
        texts = torch.where(named[:, None], tables.tagged[where], tables.untagged[where])
        only = named & ~one_look & (torch.rand(count, device=DEVICE) < LOOK_ONLY)
        other = torch.randint(LOOK_WORDINGS, (count,), device=DEVICE)
        texts = torch.where(only[:, None], tables.look_only[looks, other], texts)
        with autocast():
            seen = self.see(images.contiguous(memory_format=torch.channels_last)).float()
            read = self.read(texts).float()
        loss: Tensor = self.loss(
            nn.functional.normalize(seen, dim=-1),
            nn.functional.normalize(read, dim=-1),
            self.model.logit_scale.exp(),
        )
        return loss

    @torch.no_grad()
    def bound_scale(self, number: int) -> None:
        """Clamp the logit scale to at most 100, as CLIP does."""
        self.model.logit_scale.clamp_(0, math.log(100))

    @torch.no_grad()
    def judge(self, pictures: Tensor) -> dict[str, float]:
        """Share of held-out pictures whose concept, drawn look or artist is recognised."""
        self.model.eval()
        corpus, tables = self.tables.corpus, self.tables
        images = self.model.encode_image(shrink(pictures), normalize=True)
        names = [corpus.concepts[c].name for c, _ in corpus.held_out]
        texts = self.model.encode_text(
            tables.tokenize([plain_caption(name) for name in names]), normalize=True
        )
        found = (images @ texts.T).argmax(1) == torch.arange(len(names), device=DEVICE)
        tags = [plain_caption(name, look) for name in names for look in LOOKS]
        by_look = self.model.encode_text(tables.tokenize(tags), normalize=True)
        by_look = by_look.view(len(names), len(LOOKS), -1)
        looks = torch.tensor([k for _, k in corpus.held_out], device=DEVICE)
        hit = torch.einsum("nd,nkd->nk", images, by_look).argmax(1) == looks
        is_artist = looks < len(ARTISTS)
        self.model.train()
        shares = {"concept": found, "look": hit[~is_artist], "artist": hit[is_artist]}
        return {name: round(share.float().mean().item(), 3) for name, share in shares.items()}

    def report(self) -> dict[str, float]:
        """`judge` on the real pictures."""
        return self.judge(self.tables.held_out())

    def export(self, folder: Path) -> None:
        """Write the model for `open_clip.create_model_and_transforms("local-dir:...")`."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
            for name, value in self.model.state_dict().items()
        }
        save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        preprocess = {"size": CLIP_PIXELS, "mean": MEAN, "std": STD, "interpolation": "bicubic"}
        preprocess["resize_mode"] = "squash"
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess})
        )
        self.tables.tokenizer.save_pretrained(folder)
        compact(folder)


def main() -> None:
    """Train, evaluate and export."""
    given = training_arguments("Train the embedded CLIP.", ["corpus"], steps=4800, batch=256)
    tables = Tables(Corpus.load(given.corpus))
    trainer = Trainer(tables, given.folder, given.length, given.batch)
    trainer.run.train(trainer.step, after=trainer.bound_scale, report=trainer.report)
    trainer.export(given.folder / "clip-emoji")


if __name__ == "__main__":
    main()
