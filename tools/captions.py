"""Captions of the corpus: names and keywords in various sentences, with and without a style."""

from __future__ import annotations

import numpy as np

FRAMES = (
    "{x}", "{x}", "{x}", "{x}", "a picture of {x}", "an image of {x}", "a drawing of {x}",
    "{x} alone", "an illustration of {x}", "one {n}", "the {n}", "my {n}", "a small {n}",
    "a big {n}",
    "{x} on a table", "{x} in the morning light", "{x} standing on rocky terrain",
    "{x} by the sea", "{x} seen from the side", "{x} in a quiet street", "{x} under a clear sky",
    "{x} in the middle of a field", "a close-up of {x}", "{x} next to a window",
    "a portrait of {x}", "{x} in front of a wall", "a beautiful {n}", "an old {n}",
    "{x} on a sunny day", "{x} in the snow", "{x} at rest", "a single {n} in the centre",
)  # fmt: skip

# The first wording of each look is used for scores.
TAGS: dict[str, tuple[str, ...]] = {
    "noto": ("noto emoji", "soft shaded emoji", "android emoji"),
    "fluent-flat": ("flat vector art", "flat colours", "flat design", "minimal flat icon"),
    "fluent-3d": ("glossy 3d render", "3d render", "smooth plastic 3d", "soft 3d icon"),
    "twemoji": ("twemoji", "simple web emoji", "plain emoji sticker"),
    "pixel-art": (
        "pixel art",
        "8-bit pixels",
        "16-bit game sprite",
        "pixelated",
        "retro pixel sprite",
    ),
    "pencil-sketch": (
        "pencil sketch",
        "graphite drawing",
        "sketch",
        "hand drawn pencil",
        "sketchbook page",
    ),
    "watercolor": (
        "watercolor",
        "watercolour painting",
        "soft watercolor wash",
        "aquarelle",
        "ink and wash",
    ),
    "cyberpunk": (
        "neon cyberpunk",
        "cyberpunk",
        "neon lights",
        "glowing neon sign",
        "synthwave neon",
    ),
    "ukiyo-e": (
        "ukiyo-e woodblock print",
        "ukiyo-e",
        "japanese woodblock",
        "edo print",
        "in the style of hokusai",
    ),
    "art-nouveau": (
        "art nouveau",
        "art nouveau poster",
        "mucha poster",
        "golden ornament, art nouveau",
    ),
    "kids-painting": (
        "kid's painting",
        "child's painting",
        "painted by a child",
        "crayon and poster paint",
        "kindergarten painting",
    ),
    "retro-3d": (
        "retro 3d graphics",
        "90s 3d graphics",
        "low colour 3d",
        "old computer graphics",
        "vaporwave 3d",
    ),
    "blueprint": (
        "blueprint",
        "technical drawing",
        "white lines on blue paper",
        "engineering blueprint",
    ),
    "anime": ("anime", "anime cel", "cel shaded anime", "japanese animation", "manga colours"),
}


def name_with_article(name: str) -> str:
    """ "tiger" -> "a tiger"; plurals and mass nouns are unchanged."""
    plural = name.endswith("s") and not name.endswith(("ss", "us", "is"))
    return name if plural else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def framed(names: list[str], rng: np.random.Generator) -> str:
    """A sentence with the concept's name, or sometimes with a keyword.

    Args:
        names: the concept's name, then its keywords.
        rng: source of the random choices.
    """
    keyword = len(names) > 1 and rng.random() < 0.12
    name = names[rng.integers(1, len(names))] if keyword else names[0]
    frame = FRAMES[rng.integers(len(FRAMES))]
    return frame.format(x=name_with_article(name), n=name)


def tagged(text: str, look: str, rng: np.random.Generator) -> str:
    """Add a random wording of the look to the sentence."""
    tag = TAGS[look][rng.integers(len(TAGS[look]))]
    form = rng.integers(4)
    return (f"{text}, {tag}", f"{text}, {tag}", f"{tag} of {text}", f"{text}, {tag} style")[form]


def look_caption(look: str, rng: np.random.Generator) -> str:
    """A caption that names only the look."""
    tag = TAGS[look][rng.integers(len(TAGS[look]))]
    return (tag, f"{tag} style", f"a picture, {tag}")[rng.integers(3)]


def plain_caption(name: str, look: str | None = None) -> str:
    """The caption that scores use: "a tiger, pixel art"."""
    text = name_with_article(name)
    return f"{text}, {TAGS[look][0]}" if look else text
