"""Build the image corpus that the embedded CLIP and generator learn from.

    python -m tools.corpus build/corpus             about 8 min on two cores

Writes `images.npy`, uint8 of shape (concepts, looks, 64, 64, 3); `variants.npy`, (concepts, drawn
looks, artists, 64, 64, 3), with every drawn look from every artist's picture; `corpus.json` with
the concepts' names and keywords, the looks and the held-out (concept, look) pairs; and a contact
sheet. The art and its licences are named in assets/README.md.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from tools.looks import ARTISTS, LOOKS, SIDE, Picture, resize

PIXELS = 64
HELD_OUT_PAIRS = 200
WELL_KNOWN = 512
SETS = {"noto": "noto", "fluent-flat": "fluent-emoji-flat", "twemoji": "twemoji"}
KNOWN_GROUPS = (
    "Animals & Nature", "Food & Drink", "Travel & Places", "Objects", "Activities",
)  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """What a picture is of."""

    name: str
    keywords: list[str]
    group: str
    code: str

    @property
    def is_thing(self) -> bool:
        """A thing with a short name, and not one of a series such as clock faces."""
        series = re.search(r"o.clock|thirty|moon|button|^(?:man|woman|person)\b", self.name)
        return self.group in KNOWN_GROUPS and len(self.name.split()) <= 2 and not series


@dataclass(frozen=True)
class Corpus:
    """The corpus as it is read back.

    Attributes:
        images: uint8 (concepts, looks, 64, 64, 3).
        variants: uint8 (concepts, drawn looks, artists, 64, 64, 3): what else a drawn look could
            be. An image model is to give one picture; a judge of pictures is to know them all.
        concepts: of the rows.
        looks: names of the columns.
        held_out: (concept, look) index pairs that nothing is trained on.
        words: names and keywords of all concepts, drawn or not, for the vocabulary.
    """

    images: np.ndarray[Any, Any]
    variants: np.ndarray[Any, Any]
    concepts: list[Concept]
    looks: list[str]
    held_out: list[tuple[int, int]]
    words: list[str]

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Read what `main` wrote."""
        index = json.loads((folder / "corpus.json").read_text())
        return cls(
            images=np.load(folder / "images.npy", mmap_mode="r"),
            variants=np.load(folder / "variants.npy", mmap_mode="r"),
            concepts=[Concept(**raw) for raw in index["concepts"]],
            looks=index["looks"],
            held_out=[(int(c), int(k)) for c, k in index["held_out"]],
            words=index["words"],
        )

    def training_mask(self) -> np.ndarray[Any, Any]:
        """True, of shape (concepts, looks), where a picture may be trained on."""
        mask = np.ones(self.images.shape[:2], bool)
        for concept, look in self.held_out:
            mask[concept, look] = False
        return mask


def install_art(folder: Path) -> Path:
    """Fetch the art from the npm registry, at the versions of package.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("package.json"), folder)
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder,
        check=True,
    )
    return folder / "node_modules"


def find_concepts(art: Path) -> list[Concept]:
    """Concepts that all four artists drew, without flags."""
    emoji = json.loads((art / "unicode-emoji-json/data-by-emoji.json").read_text())
    keywords = json.loads((art / "emojilib/dist/emoji-en-US.json").read_text())
    concepts = []
    for symbol, facts in emoji.items():
        code = "-".join(f"{ord(c):04x}" for c in symbol)
        if facts["group"] == "Flags" or not all(_has(art, artist, code) for artist in ARTISTS):
            continue
        name = facts["name"].lower().replace("\u2019", "'")
        others = [w.replace("_", " ").lower() for w in keywords.get(symbol, [])]
        concepts.append(
            Concept(
                name=name,
                # Later keywords are loose associations.
                keywords=[w for w in dict.fromkeys(others) if w != name][:3],
                group=facts["group"],
                code=code,
            )
        )
    return concepts


def render(art: Path, artist: str, code: str) -> Picture:
    """One artist's picture, float32 RGBA of shape (256, 256, 4)."""
    if artist == "fluent-3d":
        image = Image.open(_file_3d(art, code)).convert("RGBA").resize((SIDE, SIDE))
    else:
        icons = _icons(art, artist)
        icon = icons["icons"][_name_of(art, artist, code)]
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}" width="{SIDE}" height="{SIDE}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return _with_margin(np.asarray(image, np.float32) / 255)


def draw_concept(art: Path, code: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """One concept's rows of `images` and `variants`; the same on every run."""
    pictures = {artist: render(art, artist, code) for artist in ARTISTS}

    def draw(name: str, artist: str) -> np.ndarray[Any, Any]:
        rng = np.random.default_rng(zlib.crc32(f"{code} {name}".encode()))
        rgb = np.ascontiguousarray(LOOKS[name][1](pictures[artist], rng), np.float32)
        return np.round(resize(rgb, PIXELS) * 255).clip(0, 255).astype(np.uint8)

    variants = {name: [draw(name, a) for a in ARTISTS] for name in LOOKS if name not in ARTISTS}
    images = [
        variants[name][ARTISTS.index(artist)] if name in variants else draw(name, artist)
        for name, (artist, _) in LOOKS.items()
    ]
    return np.stack(images), np.array(list(variants.values()))


def hold_out(concepts: list[Concept], looks: int, pairs: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of a concept and a look, no concept twice, no two names that share a word."""
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
    """Rows of pictures, uint8 (rows, columns, side, side, 3), as one image."""
    rows, columns, side = images.shape[:3]
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
    return Image.fromarray(np.ascontiguousarray(sheet))


def main() -> None:
    """Build the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="every concept, not the best known")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    art = install_art(arguments.folder / "art")
    concepts = find_concepts(art)
    words = sorted({word for c in concepts for word in (c.name, *c.keywords)})
    if not arguments.all:
        # One word before two: what has a word of its own is what people know best.
        things = [c for c in concepts if c.is_thing]
        concepts = sorted(things, key=lambda c: len(c.name.split()))[:WELL_KNOWN]
    with ProcessPoolExecutor(arguments.workers) as pool:
        jobs = [pool.submit(draw_concept, art, c.code) for c in concepts]
        images, variants = map(np.stack, zip(*(job.result() for job in jobs), strict=True))
    np.save(arguments.folder / "images.npy", images)
    np.save(arguments.folder / "variants.npy", variants)
    index = {
        "concepts": [asdict(c) for c in concepts],
        "looks": list(LOOKS),
        "words": words,
        "held_out": hold_out([*concepts], len(LOOKS), HELD_OUT_PAIRS, seed=0),
    }
    (arguments.folder / "corpus.json").write_text(json.dumps(index, indent=1))
    rows = np.random.default_rng(0).choice(len(concepts), 24, replace=False)
    contact_sheet(images[rows]).save(arguments.folder / "sheet.png")
    print(f"{len(concepts)} concepts in {len(LOOKS)} looks, {images.nbytes / 2**20:.0f} MiB")


def _has(art: Path, artist: str, code: str) -> bool:
    if artist == "fluent-3d":
        return _file_3d(art, code).is_file()
    name = _name_of(art, artist, code)
    return name is not None and name in _icons(art, artist)["icons"]


def _file_3d(art: Path, code: str) -> Path:
    folder = art / "@lobehub/fluent-emoji-3d/assets"
    with_selector = folder / f"{code}.webp"
    return with_selector if with_selector.is_file() else folder / f"{_bare(code)}.webp"


@cache
def _icons(art: Path, artist: str) -> dict[str, Any]:
    path = art / "@iconify-json" / SETS[artist] / "icons.json"
    icons: dict[str, Any] = json.loads(path.read_text())
    return icons


@cache
def _chars(art: Path, artist: str) -> dict[str, str]:
    path = art / "@iconify-json" / SETS[artist] / "chars.json"
    return {_bare(code): name for code, name in json.loads(path.read_text()).items()}


def _name_of(art: Path, artist: str, code: str) -> str | None:
    return _chars(art, artist).get(_bare(code))


def _bare(code: str) -> str:
    return code.replace("-fe0f", "")


def _with_margin(picture: Picture, margin: int = 16) -> Picture:
    framed = np.zeros_like(picture)
    # Colours of transparent pixels would bleed into the border when scaled.
    premultiplied = picture.copy()
    premultiplied[..., :3] *= picture[..., 3:]
    small = resize(premultiplied, SIDE - 2 * margin)
    framed[margin:-margin, margin:-margin] = small
    framed[..., :3] /= np.maximum(framed[..., 3:], 1e-3)
    return framed.clip(0, 1)


if __name__ == "__main__":
    main()
