"""Draw the image corpus that the embedded CLIP and generator are trained on.

    python -m tools.corpus build/art.zip build/corpus      about 12 min on two cores

Writes `images.npy`, uint8 of shape (concepts, artists, 1 + drawn looks, pixels, pixels, 3), with
every artist's picture and every drawn look of it; `corpus.json` with the concepts' names and
keywords, the looks and the held-out (concept, look) pairs; and a contact sheet.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.looks import ARTISTS, LOOKS, Picture, resize

PIXELS = 128
HELD_OUT_PAIRS = 200
DRAWN = tuple(name for name in LOOKS if name not in ARTISTS)


@dataclass(frozen=True)
class Concept:
    """The subject of a picture."""

    name: str
    keywords: list[str]
    group: str
    code: str


@dataclass(frozen=True)
class Corpus:
    """The corpus in memory.

    Attributes:
        images: uint8 (concepts, artists, 1 + drawn looks, pixels, pixels, 3); column 0 is the
            artist's own picture, column 1 + i the same picture in the look `DRAWN[i]`.
        concepts: one per row.
        looks: the artists, then the drawn looks.
        held_out: (concept, look) index pairs that no training uses.
        words: names and keywords of all concepts, drawn or not, for the vocabulary.
    """

    images: np.ndarray[Any, Any]
    concepts: list[Concept]
    looks: list[str]
    held_out: list[tuple[int, int]]
    words: list[str]

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Load a corpus that `build` wrote."""
        index = json.loads((folder / "corpus.json").read_text())
        return cls(
            images=np.load(folder / "images.npy", mmap_mode="r"),
            concepts=[Concept(**raw) for raw in index["concepts"]],
            looks=index["looks"],
            held_out=[(int(c), int(k)) for c, k in index["held_out"]],
            words=index["words"],
        )

    def training_mask(self) -> np.ndarray[Any, Any]:
        """Bool of shape (concepts, looks): True where a picture may be used for training."""
        mask = np.ones((len(self.concepts), len(self.looks)), bool)
        for concept, look in self.held_out:
            mask[concept, look] = False
        return mask

    def held_out_images(self) -> np.ndarray[Any, Any]:
        """The held-out pictures, uint8 (pairs, pixels, pixels, 3); drawn looks use Noto's art."""
        return np.stack([self.images[c, *cell_of(k)] for c, k in self.held_out])


def cell_of(look: int) -> tuple[int, int]:
    """(artist, column) of a look in `Corpus.images`; for drawn looks, that of the first artist."""
    return (look, 0) if look < len(ARTISTS) else (0, look - len(ARTISTS) + 1)


def draw_concept(art: Path, code: str, pixels: int) -> np.ndarray[Any, Any]:
    """One concept's pictures, an entry of `images`; deterministic."""
    rows = []
    for artist in ARTISTS:
        picture = _picture(art, artist, code)
        for name in (artist, *DRAWN):
            rng = np.random.default_rng(zlib.crc32(f"{code} {name}".encode()))
            rgb = np.ascontiguousarray(LOOKS[name][1](picture, rng), np.float32)
            rows.append(np.round(resize(rgb, pixels) * 255).clip(0, 255).astype(np.uint8))
    return np.stack(rows).reshape(len(ARTISTS), 1 + len(DRAWN), pixels, pixels, 3)


def build(art: Path, folder: Path, *, pixels: int, workers: int, most: int | None = None) -> None:
    """Draw all concepts of the archive, or the first `most`; `corpus.json` is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(art) as archive:
        found = json.loads(archive.read("index.json"))
    concepts = [Concept(**raw) for raw in found["concepts"]][:most]
    shape = (len(concepts), len(ARTISTS), 1 + len(DRAWN), pixels, pixels, 3)
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape
    )
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(draw_concept, art, c.code, pixels) for c in concepts]
        for row, job in enumerate(jobs):
            images[row] = job.result()
    images.flush()
    pairs = min(HELD_OUT_PAIRS, len(concepts) // 4)
    index = {
        "concepts": [asdict(c) for c in concepts],
        "looks": list(LOOKS),
        "words": found["words"],
        "held_out": hold_out(concepts, len(LOOKS), pairs, seed=0),
    }
    rows = np.random.default_rng(0).choice(len(concepts), min(8, len(concepts)), replace=False)
    contact_sheet(images[rows, rows % len(ARTISTS)]).save(folder / "sheet.png")
    (folder / "corpus.json").write_text(json.dumps(index, indent=1))


def hold_out(concepts: list[Concept], looks: int, pairs: int, seed: int) -> list[tuple[int, int]]:
    """Draw (concept, look) pairs with distinct concepts whose names share no words."""
    rng = np.random.default_rng(seed)
    words: set[str] = set()
    chosen: list[tuple[int, int]] = []
    for concept in rng.permutation(len(concepts)):
        name = set(re.findall(r"[a-z]+", concepts[concept].name)) - {"and", "with", "of", "the"}
        if not words & name:
            words |= name
            chosen.append((int(concept), len(chosen) % looks))
        if len(chosen) == pairs:
            break
    return sorted(chosen)


def contact_sheet(images: np.ndarray[Any, Any]) -> Image.Image:
    """Tile pictures, uint8 (rows, columns, side, side, 3), into one image."""
    rows, columns, side = images.shape[:3]
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
    return Image.fromarray(np.ascontiguousarray(sheet))


def main() -> None:
    """Build the corpus."""
    parser = argparse.ArgumentParser(description="Draw the image corpus.")
    parser.add_argument("art", type=Path, help="the archive of tools.art")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixels", type=int, default=PIXELS, choices=(64, 96, 128))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--most", type=int, help="concepts at most")
    given = parser.parse_args()
    build(given.art, given.folder, pixels=given.pixels, workers=given.workers, most=given.most)
    print(f"corpus of shape {Corpus.load(given.folder).images.shape} in {given.folder}")


@cache
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _picture(art: Path, artist: str, code: str) -> Picture:
    image = Image.open(io.BytesIO(_archive(art).read(f"{artist}/{code}.webp")))
    return np.asarray(image.convert("RGBA"), np.float32) / 255


if __name__ == "__main__":
    main()
