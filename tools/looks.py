"""The looks of the corpus: four artists' styles, and ten derived from them by image processing.

Each drawn look is a function of one picture with alpha, float32 of shape (256, 256, 4) in [0, 1],
and a seeded generator. It returns an opaque RGB picture of any square size, which is then scaled
down to the corpus's size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Picture = NDArray[np.float32]
Look = Callable[[Picture, np.random.Generator], Picture]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SIDE = 256


def over(picture: Picture, background: Picture | tuple[float, float, float]) -> Picture:
    """Composite the picture onto an opaque background."""
    alpha = picture[..., 3:]
    return picture[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)


def resize(picture: Picture, side: int, *, sharp: bool = False) -> Picture:
    """Scale to (side, side) with area averaging, or with nearest neighbour if `sharp`."""
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.BOX
    bands = [
        np.asarray(Image.fromarray(picture[..., i]).resize((side, side), method))
        for i in range(picture.shape[-1])
    ]
    return np.stack(bands, axis=-1)


def plain(picture: Picture, rng: np.random.Generator) -> Picture:
    """The artist's picture on white."""
    return over(picture, (1, 1, 1))


def pixel_art(picture: Picture, rng: np.random.Generator) -> Picture:
    """Sixteen blocks per side in few tones, on a pale background."""
    small = resize(picture, 16)
    solid = small[..., 3:] > 0.4
    rgb = np.round(np.clip(saturate(small[..., :3], 1.4), 0, 1) * 4) / 4
    edge = solid[..., 0] & ~ndimage.binary_erosion(solid[..., 0])
    rgb = np.where(edge[..., None], rgb * 0.55, rgb)
    return resize(
        np.where(solid, rgb, np.float32([0.80, 0.92, 0.84])).astype(np.float32), 64, sharp=True
    )


def pencil_sketch(picture: Picture, rng: np.random.Generator) -> Picture:
    """Graphite lines and hatching on paper."""
    grey = over(picture, (1, 1, 1)) @ LUMA
    lines = np.clip(1 - edges(picture, 1.5) * 2.2, 0, 1)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    tone = ndimage.gaussian_filter(grey, 3)
    hatch = np.ones_like(grey)
    for step, (limit, direction) in enumerate(((0.75, 1), (0.5, -1), (0.28, 1))):
        stroke = np.sin((rows + direction * columns + 5 * step) * 2 * np.pi / 15) > 0.15
        hatch = np.where((tone < limit) & stroke, hatch * 0.66, hatch)
    grain = 1 + 0.05 * ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.2) * 3
    sheet = np.clip(np.minimum(lines, hatch) * grain, 0, 1)
    graphite, paper = np.float32([0.25, 0.25, 0.28]), np.float32([0.96, 0.95, 0.92])
    return (graphite + (paper - graphite) * sheet[..., None]).astype(np.float32)


def watercolor(picture: Picture, rng: np.random.Generator) -> Picture:
    """Thin washes that run a little, darker where they dry, on rough paper."""
    wet = displace(picture, rng, amount=9, scale=14)
    wet = np.stack([ndimage.gaussian_filter(wet[..., i], 3.0) for i in range(4)], axis=-1)
    alpha = np.clip((wet[..., 3] - 0.25) * 2.2, 0, 1)
    rim = np.clip(alpha - ndimage.gaussian_filter(alpha, 6), 0, 1)
    bloom = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 12)
    bloom = bloom / bloom.std()
    strength = np.clip(0.68 + 0.13 * bloom + 0.7 * rim, 0.3, 1) * alpha
    rgb = saturate(wet[..., :3] / np.maximum(wet[..., 3:], 0.05), 1.15)
    paper = 0.98 + 0.02 * ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE, 1)), (1, 1, 0))
    paper = paper * np.float32([1.0, 0.985, 0.95])
    stain = 0.10 * ndimage.gaussian_filter(wet[..., 3], 22)[..., None]
    page = paper * (1 - stain) + np.clip(rgb.mean((0, 1)), 0, 1) * stain
    return np.clip(
        page * (1 - strength[..., None]) + np.clip(rgb, 0, 1) * strength[..., None], 0, 1
    )


def cyberpunk(picture: Picture, rng: np.random.Generator) -> Picture:
    """Glowing magenta and cyan tubes in the dark."""
    line = np.clip(edges(picture, 1.8) * 1.8, 0, 1)
    hue = (over(picture, (0, 0, 0)) @ LUMA + np.linspace(0, 0.6, SIDE)[:, None]) > 0.72
    colour = np.where(hue[..., None], np.float32([0.1, 0.95, 1.0]), np.float32([1.0, 0.12, 0.75]))
    tube = line[..., None] * colour
    glow = sum(
        np.stack([ndimage.gaussian_filter(tube[..., i], s) for i in range(3)], axis=-1) * w
        for s, w in ((4, 1.1), (14, 1.3))
    )
    night = np.float32([0.05, 0.02, 0.13]) + 0.10 * over(picture, (0, 0, 0)) * np.float32(
        [0.6, 0.3, 1]
    )
    return np.clip(night + glow + tube * 0.8 + 0.35 * line[..., None] ** 3, 0, 1).astype(np.float32)


def ukiyo_e(picture: Picture, rng: np.random.Generator) -> Picture:
    """Flat pigments and indigo outlines on cream, a graded blue sky, a red seal."""
    inks = np.float32(
        [
            [0.16, 0.25, 0.42], [0.75, 0.30, 0.20], [0.86, 0.66, 0.36], [0.42, 0.53, 0.42],
            [0.93, 0.87, 0.74], [0.52, 0.40, 0.33], [0.55, 0.68, 0.72], [0.20, 0.18, 0.20],
        ]
    )  # fmt: skip
    soft = np.stack([ndimage.median_filter(picture[..., i], 7) for i in range(4)], axis=-1)
    nearest = ((saturate(soft[..., None, :3], 0.9) - inks) ** 2).sum(-1).argmin(-1)
    grain = 1 - 0.06 * (np.sin(np.mgrid[:SIDE, :SIDE][0] / 2.6 + rng.uniform(0, 6)) > 0.6)
    cream = np.float32([0.94, 0.89, 0.77])
    sky = np.clip(1 - np.linspace(0, 2.6, SIDE), 0, 1)[:, None, None]
    sea = np.clip(np.linspace(-3.4, 1, SIDE), 0, 1)[:, None, None]
    page = cream * (1 - sky) + np.float32([0.20, 0.36, 0.55]) * sky
    page = np.broadcast_to(page * (1 - sea) + np.float32([0.45, 0.60, 0.62]) * sea, (SIDE, SIDE, 3))
    body = soft[..., 3:] > 0.5
    print_ = np.where(body, inks[nearest], page) * grain[..., None]
    line = np.clip(edges(picture, 1.6) * 1.7, 0, 1)[..., None]
    print_ = print_ * (1 - line) + np.float32([0.12, 0.16, 0.28]) * line
    print_[204:244, 208:240] = np.float32([0.76, 0.16, 0.12])
    print_[212:236, 221:227] = cream
    return print_.astype(np.float32)


def art_nouveau(picture: Picture, rng: np.random.Generator) -> Picture:
    """A heavy sepia outline, muted colours, a golden halo in an arched frame."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    radius = np.hypot(rows - 128, columns - 128)
    olive, gold = np.float32([0.36, 0.40, 0.28]), np.float32([0.80, 0.63, 0.30])
    page = np.broadcast_to(olive, (SIDE, SIDE, 3)).copy()
    page[radius < 122] = gold
    angle = np.arctan2(rows - 128, columns - 128)
    petals = (np.cos(angle * 20) > 0) & (radius > 98) & (radius < 116)
    page[petals] = np.float32([0.45, 0.27, 0.16])
    page[radius < 98] = np.float32([0.93, 0.86, 0.66])
    page[np.abs(radius - 98) < 3] = page[np.abs(radius - 122) < 3] = np.float32([0.30, 0.18, 0.12])
    small = np.zeros_like(picture)
    small[34:222, 34:222] = resize(picture, 188)
    rgb = saturate(small[..., :3], 0.5) * np.float32([1.0, 0.90, 0.70]) * 0.9 + 0.05
    drawn = page * (1 - small[..., 3:]) + rgb * small[..., 3:]
    body = small[..., 3] > 0.5
    outline = ndimage.binary_dilation(body, iterations=5) & ~ndimage.binary_erosion(
        body, iterations=1
    )
    line = np.maximum(outline, np.clip(edges(small, 1.5) * 1.6, 0, 1))[..., None]
    return (drawn * (1 - line) + np.float32([0.25, 0.14, 0.10]) * line).astype(np.float32)


def kids_painting(picture: Picture, rng: np.random.Generator) -> Picture:
    """Wobbly poster paint between a strip of sky, a sun in the corner and grass."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    page = np.ones((SIDE, SIDE, 3), np.float32) * np.float32([1.0, 0.99, 0.95])
    wave = 8 * np.sin(columns / 17 + rng.uniform(0, 6))
    page[rows < 38 + wave] = np.float32([0.35, 0.65, 0.98])
    page[rows > 214 + wave] = np.float32([0.25, 0.72, 0.22])
    sun = np.hypot(rows - 6, columns - 250)
    rays = (np.cos(np.arctan2(rows - 6, columns - 250) * 14) > 0.2) & (sun < 74)
    page[(sun < 48) | rays] = np.float32([1.0, 0.83, 0.1])
    paint = displace(picture, rng, amount=9, scale=13)
    rgb = np.round(np.clip(saturate(paint[..., :3], 1.9), 0, 1) * 2.5) / 2.5
    stripe = np.sin((rows * 0.8 + columns) / 4.5 + 2 * np.sin(rows / 23)) > 0.82
    rgb = np.where(stripe[..., None], rgb * 0.6 + 0.4, rgb)
    body = paint[..., 3:] > 0.45
    edge = body[..., 0] ^ ndimage.binary_erosion(body[..., 0], iterations=5)
    painted = np.where(body, np.clip(rgb, 0, 1), page)
    return np.where(edge[..., None], painted * 0.45, painted).astype(np.float32)


def retro_3d(picture: Picture, rng: np.random.Generator) -> Picture:
    """Dithered low-colour render over a violet horizon with a wire grid."""
    rows, columns = np.mgrid[:64, :64].astype(np.float32)
    sky = np.linspace(0, 1, 64)[:, None, None]
    page = np.float32([0.10, 0.02, 0.30]) * (1 - sky) + np.float32([0.95, 0.35, 0.60]) * sky
    page = np.broadcast_to(page, (64, 64, 3)).copy()
    ground = rows >= 44
    depth = np.maximum(rows - 42, 1)
    grid = (np.abs((columns - 31.5) / depth * 6 % 5) < 0.9) | np.isin(rows, [44, 46, 49, 53, 58])
    page[ground] = np.float32([0.06, 0.02, 0.18])
    page[ground & grid] = np.float32([0.2, 0.9, 0.9])
    small = resize(picture, 64)
    scene = page * (1 - small[..., 3:]) + saturate(small[..., :3], 1.2) * small[..., 3:]
    bayer = np.float32([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 - 0.47
    dither = np.tile(bayer, (16, 16))[..., None] * small[..., 3:]
    return np.clip(np.round(scene * 3 + dither * 0.9) / 3, 0, 1).astype(np.float32)


def blueprint(picture: Picture, rng: np.random.Generator) -> Picture:
    """White lines on blue, over a grid."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    page = np.ones((SIDE, SIDE, 3), np.float32) * np.float32([0.09, 0.27, 0.62])
    page[(rows % 32 < 2) | (columns % 32 < 2)] = np.float32([0.22, 0.42, 0.76])
    shade = 0.12 * (over(picture, (0, 0, 0)) @ LUMA)[..., None] * picture[..., 3:]
    line = np.clip(edges(picture, 1.3) * 2.4, 0, 1)[..., None]
    return np.clip((page + shade) * (1 - line) + np.float32([0.93, 0.97, 1.0]) * line, 0, 1)


def anime(picture: Picture, rng: np.random.Generator) -> Picture:
    """Cel shading in three tones and an ink line, on a pink and blue sky with speed lines."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    sky = np.linspace(0, 1, SIDE)[:, None, None]
    page = np.float32([0.45, 0.78, 1.0]) * (1 - sky) + np.float32([1.0, 0.80, 0.90]) * sky
    angle = np.arctan2(rows - 128, columns - 128)
    radius = np.hypot(rows - 128, columns - 128)
    rays = (np.cos(angle * 24 + rng.uniform(0, 6)) > 0.75) & (radius > 96)
    page = np.where(rays[..., None], np.float32([1, 1, 1]), page)
    rgb = np.stack([ndimage.median_filter(picture[..., i], 9) for i in range(3)], axis=-1)
    light = rgb @ LUMA + 0.16 * (1 - (rows + columns) / SIDE)
    tone = np.where(light > 0.62, 1.12, np.where(light > 0.36, 0.92, 0.66))[..., None]
    cel = np.clip(saturate(rgb, 1.7) * tone, 0, 1)
    alpha = picture[..., 3:]
    body = alpha[..., 0] > 0.5
    outline = ndimage.binary_dilation(body, iterations=4) & ~ndimage.binary_erosion(
        body, iterations=3
    )
    line = np.maximum(outline, np.clip(edges(picture, 1.2) * 1.5, 0, 1))[..., None]
    drawn = page * (1 - alpha) + cel * alpha
    return (drawn * (1 - line) + np.float32([0.07, 0.05, 0.12]) * line).astype(np.float32)


def edges(picture: Picture, blur: float) -> NDArray[np.float32]:
    """Strength of colour edges and outlines, (height, width), about 0 to 1."""
    stack = np.concatenate([over(picture, (0.5, 0.5, 0.5)), picture[..., 3:]], axis=-1)
    stack = np.stack([ndimage.gaussian_filter(stack[..., i], blur) for i in range(4)], axis=-1)
    size = [
        np.hypot(ndimage.sobel(stack[..., i], 0), ndimage.sobel(stack[..., i], 1)) for i in range(4)
    ]
    return np.clip(np.max(size, axis=0), 0, 1).astype(np.float32)


def saturate(rgb: Picture, amount: float) -> Picture:
    """Scale the saturation: above 1 moves colours away from grey, below 1 towards it."""
    grey = (rgb @ LUMA)[..., None]
    return grey + (rgb - grey) * np.float32(amount)


def displace(picture: Picture, rng: np.random.Generator, amount: float, scale: float) -> Picture:
    """Distort like rippled glass, with shifts of `amount` pixels that vary over `scale` pixels."""
    shifts = [ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), scale) for _ in range(2)]
    where = [
        grid + amount * s / s.std() * 0.5
        for grid, s in zip(np.mgrid[:SIDE, :SIDE], shifts, strict=True)
    ]
    bands = [
        ndimage.map_coordinates(picture[..., i], where, order=1, mode="nearest") for i in range(4)
    ]
    return np.stack(bands, axis=-1).astype(np.float32)


# Look -> (artist whose picture it is drawn from, drawing function).
ARTISTS = ("noto", "fluent-flat", "fluent-3d", "twemoji")
LOOKS: dict[str, tuple[str, Look]] = {
    "noto": ("noto", plain),
    "fluent-flat": ("fluent-flat", plain),
    "fluent-3d": ("fluent-3d", plain),
    "twemoji": ("twemoji", plain),
    "pixel-art": ("noto", pixel_art),
    "pencil-sketch": ("noto", pencil_sketch),
    "watercolor": ("noto", watercolor),
    "cyberpunk": ("fluent-flat", cyberpunk),
    "ukiyo-e": ("noto", ukiyo_e),
    "art-nouveau": ("twemoji", art_nouveau),
    "kids-painting": ("fluent-flat", kids_painting),
    "retro-3d": ("fluent-3d", retro_3d),
    "blueprint": ("twemoji", blueprint),
    "anime": ("fluent-3d", anime),
}
