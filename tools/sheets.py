"""Contact sheets of a generator: looks, seeds, interpolation to a look, and held-out pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tools.captions import TAGS, name_with_article, plain_caption
from tools.corpus import DRAWN, contact_sheet
from tools.device import DEVICE
from tools.looks import LOOKS
from tools.tables import Tables, as_bytes
from tools.train_autoencoder import FACTOR, LATENT_CHANNELS

SUBJECTS = (
    "tiger", "castle", "strawberry", "rocket", "owl", "guitar", "sailboat", "cactus", "astronaut",
    "robot",
)  # fmt: skip
AT_ONCE = 50
WAYS, SEEDS = 7, 8


def noises(tables: Tables, count: int, seed: int) -> Tensor:
    """Standard normal noise, (count, channels, side, side)."""
    side = tables.pixels // FACTOR
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, LATENT_CHANNELS, side, side, generator=generator)
    return noise.to(DEVICE)


def paint_held_out(paint: Callable[..., Tensor], tables: Tables) -> Tensor:
    """Generate a picture of every held-out pair."""
    corpus = tables.corpus
    texts = [plain_caption(corpus.concepts[c].name, corpus.looks[k]) for c, k in corpus.held_out]
    noise = noises(tables, len(texts), seed=0)
    made = [
        paint(texts[i : i + AT_ONCE], noise[i : i + AT_ONCE]) for i in range(0, len(texts), AT_ONCE)
    ]
    return torch.cat(made)


def write_sheets(
    paint: Callable[..., Tensor], tables: Tables, folder: Path
) -> tuple[Tensor, Tensor]:
    """Write looks.png, seeds.png, way.png and held-out.png.

    Args:
        paint: `train_generator.Trainer.paint`.
        tables: of the corpus.
        folder: where to write.

    Returns:
        The generated and the real held-out pictures.
    """
    names = [name_with_article(subject) for subject in SUBJECTS]
    one = noises(tables, 1, seed=0)

    def save(rows: list[Tensor], name: str) -> None:
        contact_sheet(as_bytes(torch.stack(rows))).save(folder / name)

    looks = [[f"{n}, {TAGS[k][0]}" if k else n for k in (None, *LOOKS)] for n in names]
    save([paint(row, one.expand(len(row), -1, -1, -1)) for row in looks], "looks.png")
    several = noises(tables, SEEDS, seed=1)
    save([paint([name] * SEEDS, several) for name in names], "seeds.png")
    way, same = torch.linspace(0, 1, WAYS, device=DEVICE), one.expand(WAYS, -1, -1, -1)
    save(
        [
            paint([f"{name}, {TAGS[look][0]}"] * WAYS, same, way, [name] * WAYS)
            for name, look in zip(names, DRAWN, strict=True)
        ],
        "way.png",
    )
    real, made = tables.held_out(), paint_held_out(paint, tables)
    rows = min(8, len(real) // 7)
    if rows:
        pairs = torch.stack([real, made], dim=1)[: rows * 7].reshape(rows, 14, *real.shape[1:])
        save(list(pairs), "held-out.png")
    return made, real
