"""Download the emoji art and render it into one archive, from which any machine can draw looks.

    python -m tools.art build/art.zip            about 3 min on one core; needs npm

The archive contains `index.json` (concepts and vocabulary) and one `ARTIST/CODE.webp` of 256 pixels
with alpha for each artist and concept. assets/README.md lists the art and its licences.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import zipfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from tools.corpus import Concept
from tools.looks import ARTISTS, SIDE, Picture, resize

SETS = {"noto": "noto", "fluent-flat": "fluent-emoji-flat", "twemoji": "twemoji"}
KNOWN_GROUPS = (
    "Animals & Nature", "Food & Drink", "Travel & Places", "Objects", "Activities",
)  # fmt: skip
# Self-explanatory faces, creatures, people and parts of the body.
BEINGS = frozenset(
    """grinning face, smiling face, winking face, zany face, thinking face, neutral face,
    smirking face, sleepy face, sleeping face, hot face, cold face, woozy face, cowboy hat face,
    partying face, disguised face, smiling face with sunglasses, nerd face, face with monocle,
    confused face, worried face, frowning face, astonished face, flushed face, pleading face,
    fearful face, crying face, loudly crying face, tired face, yawning face, angry face,
    enraged face, smiling face with horns, smiling face with halo, face with tongue, star-struck,
    money-mouth face, zipper-mouth face, melting face, exploding head, drooling face,
    nauseated face, sneezing face, shushing face, skull, pile of poo, clown face, ogre, goblin,
    ghost, alien, alien monster, robot, grinning cat, weary cat, crying cat, pouting cat,
    see-no-evil monkey, hear-no-evil monkey, speak-no-evil monkey, love letter, collision,
    nail polish, flexed biceps, mechanical arm, mechanical leg, leg, foot, ear, nose, brain,
    lungs, tooth, bone, eye, eyes, tongue, mouth, thumbs up, raised fist, baby, child, boy, girl,
    man, woman, health worker, student, teacher, judge, farmer, cook, mechanic, scientist, singer,
    artist, pilot, astronaut, firefighter, police officer, detective, guard, ninja,
    construction worker, prince, princess, baby angel, santa claus, superhero, supervillain, mage,
    fairy, vampire, merman, mermaid, elf, genie, zombie, troll, hairy creature, skier,
    snowboarder, red heart, broken heart, footprints""".replace("\n", " ").split(", ")
)


def is_known(concept: Concept) -> bool:
    """Whether it is in `BEINGS`, or a thing with a short name outside series like clock faces."""
    if re.sub(r" +", " ", concept.name) in {re.sub(r" +", " ", being) for being in BEINGS}:
        return True
    series = re.search(r"o.clock|thirty|moon|button|^(?:man|woman|person)\b", concept.name)
    return concept.group in KNOWN_GROUPS and len(concept.name.split()) <= 2 and not series


def install_art(folder: Path) -> Path:
    """Install the art from the npm registry, at the versions in package.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("package.json"), folder)
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder,
        check=True,
    )
    return folder / "node_modules"


def find_concepts(art: Path) -> list[Concept]:
    """Concepts that all four artists drew, except flags."""
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
                # Only the first three: later keywords are loose associations.
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


def write_archive(art: Path, path: Path, concepts: list[Concept], words: list[str]) -> None:
    """Render every concept by every artist."""
    index = {"concepts": [asdict(c) for c in concepts], "words": words}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("index.json", json.dumps(index))
        for concept in concepts:
            for artist in ARTISTS:
                pixels = np.round(render(art, artist, concept.code) * 255).astype(np.uint8)
                # The 3D sources are lossy already; the drawings are small even when lossless.
                kept = {"quality": 85} if artist == "fluent-3d" else {"lossless": True}
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "webp", method=4, exact=True, **kept)
                archive.writestr(f"{artist}/{concept.code}.webp", file.getvalue())


def main() -> None:
    """Download and render."""
    parser = argparse.ArgumentParser(description="Fetch the emoji art and render it once.")
    parser.add_argument("archive", type=Path)
    parser.add_argument("--art", type=Path, help="a node_modules folder that has the art")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        art = arguments.art or install_art(Path(folder))
        concepts = find_concepts(art)
        words = sorted({word for c in concepts for word in (c.name, *c.keywords)})
        known = [c for c in concepts if is_known(c)]
        arguments.archive.parent.mkdir(parents=True, exist_ok=True)
        write_archive(art, arguments.archive, known, words)
    size = arguments.archive.stat().st_size / 2**20
    print(f"{len(known)} of {len(concepts)} concepts, {size:.0f} MiB")


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
    # Premultiply, or colours of transparent pixels bleed into the border when scaled.
    premultiplied = picture.copy()
    premultiplied[..., :3] *= picture[..., 3:]
    small = resize(premultiplied, SIDE - 2 * margin)
    framed[margin:-margin, margin:-margin] = small
    framed[..., :3] /= np.maximum(framed[..., 3:], 1e-3)
    return framed.clip(0, 1)


if __name__ == "__main__":
    main()
