"""Image grids: made from a scene, scored, drawn, and the JSON file that makes one again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from lineas_core.errors import ConfigError, MapError
from lineas_core.maps.steering_map import SteeringMap, Strength
from lineas_core.metrics.clip import AUTO, clip_score, img_score
from lineas_core.models.image.model import DiffusionModel, ImageGrid
from lineas_core.models.shared.batches import in_rows
from lineas_core.scenes.scene import Scene, UsedMap

FORMAT_VERSION = 2
# Of files without seeds, which versions before that read.
WITHOUT_SEEDS = 1
INK, PAPER, FAINT = (30, 41, 59), (255, 255, 255), (100, 116, 139)
SECONDS_A_FRAME = 0.6


def make_grid(scene: Scene, model: DiffusionModel, find: Callable[[str], SteeringMap]) -> ImageGrid:
    """The pictures of a scene at its strengths.

    Args:
        scene: of images, with strengths.
        model: the one that `scene.model` names.
        find: map name -> map.

    Returns:
        The grid; its rows say their seed where each has its own, and their strength where they
        are those of a second map.

    Raises:
        MapError: a map is not the one that the scene was made with.
        ConfigError: the scene has no strengths.
    """
    maps: list[tuple[SteeringMap, float | None]] = []
    for used in scene.maps:
        smap = find(used.name)
        if used.digest and smap.digest() != used.digest:
            raise MapError(
                f"The map {used.name!r} is not the one this grid was made with. Put the map "
                f"whose digest begins with {used.digest[:12]} in its place."
            )
        maps.append((smap.inverse() if used.inverse else smap, used.strength))
    if scene.down:
        return _make_crossed(scene, model, maps)
    grid = model.sweep(scene.prompts, maps, scene.strengths, seed=scene.seed)
    if isinstance(scene.seed, tuple):
        rows = zip(scene.prompts, scene.seed, strict=True)
        return replace(grid, prompts=[f"{prompt}, seed {seed}" for prompt, seed in rows])
    return grid


def _make_crossed(
    scene: Scene, model: DiffusionModel, maps: list[tuple[SteeringMap, float | None]]
) -> ImageGrid:
    """The first swept map's strengths across, the second one's down."""
    across = torch.tensor(scene.strengths).repeat(len(scene.down))
    downwards = torch.tensor(scene.down).repeat_interleave(len(scene.strengths))
    steer: list[tuple[SteeringMap, Strength]] = [
        (smap, 0.0 if strength is None else strength) for smap, strength in maps
    ]
    for place, strengths in zip(scene.swept, (across, downwards), strict=True):
        steer[place] = (steer[place][0], strengths)
    images = model.generate(list(scene.prompts) * len(across), steer, seed=scene.seeds[0])
    name = maps[scene.swept[1]][0].info.name or "second map"
    labels = [f"{name} {strength:g}" for strength in scene.down]
    return ImageGrid(labels, list(scene.strengths), in_rows(images, len(scene.strengths)))


@dataclass(frozen=True)
class GridScores:
    """Scores of every cell of a grid; those of two scorers do not compare.

    Attributes:
        scorer: the CLIP they come from.
        style: the text of CLIPScore.
        clip: `clip[row][column]`, CLIPScore.
        image: `image[row][column]`, IMGScore against strength 0 of the same row.
    """

    scorer: str
    style: str
    clip: list[list[float]]
    image: list[list[float]]


def score_grid(
    grid: ImageGrid,
    style: str,
    *,
    scorer: str = AUTO,
    device: str = "auto",
    crossed: bool = False,
) -> GridScores:
    """CLIPScore and IMGScore of every cell.

    Args:
        grid: one of its strengths must be 0.
        style: what steered images should look like.
        crossed: the rows are strengths of a second map, so that all cells compare with the first
            row's.
        scorer: see `clip_score`.
        device: see `clip_score`.

    Raises:
        ConfigError: the grid has no column of strength 0, or the style is empty.
        ModelError: the scorer cannot be loaded.
    """
    if 0 not in grid.strengths:
        raise ConfigError(
            f"strengths is {grid.strengths}; IMGScore compares with strength 0, so include it."
        )
    untouched = grid.strengths.index(0)
    cells = [image for row in grid.images for image in row]
    references = [
        (grid.images[0] if crossed else row)[untouched] for row in grid.images for _ in row
    ]
    clip = clip_score(cells, style, scorer=scorer, device=device)
    image = img_score(cells, references, scorer=scorer, device=device)
    columns = len(grid.strengths)
    return GridScores(clip.scorer, style, in_rows(clip, columns), in_rows(image, columns))


def write_sidecar(scene: Scene, scores: GridScores | None = None) -> str:
    """The JSON file that goes beside a grid's picture, and makes the grid again.

    Args:
        scene: of images; its maps have digests.
        scores: for people and other programs; not read back.

    Raises:
        ConfigError: the file cannot say what the scene is.
    """
    if scene.modality != "image":
        raise ConfigError(f"modality is {scene.modality!r}; a grid's file is of images.")
    for used in scene.maps:
        if not used.digest:
            raise ConfigError(
                f"The map {used.name!r} has no digest, by which a grid's file knows it. Give the "
                "map's own: SteeringMap.digest()."
            )
    seeds = scene.seed if isinstance(scene.seed, tuple) else ()
    contents: dict[str, Any] = {
        "format": FORMAT_VERSION if seeds else WITHOUT_SEEDS,
        "model": scene.model,
        "prompts": scene.prompts,
        "strengths": scene.strengths,
        "seed": scene.seeds[0],
        "maps": [
            {
                "name": used.name,
                "digest": used.digest,
                "strength": used.strength,
                "inverse": used.inverse,
            }
            for used in scene.maps
        ],
        "down": scene.down,
    }
    if seeds:
        contents["seeds"] = seeds
    if scores is not None:
        contents["scores"] = asdict(scores)
    return json.dumps(contents, indent=2)


def read_sidecar(text: str) -> Scene:
    """The scene that `write_sidecar` wrote.

    Raises:
        ConfigError: it is not such a file, of a newer format, or its scene cannot be.
    """
    try:
        raw = json.loads(text)
        version = raw["format"]
        model = str(raw["model"])
        prompts = tuple(map(str, raw["prompts"]))
        strengths = tuple(map(float, raw["strengths"]))
        seed = int(raw["seed"])
        maps = tuple(_used_map(**used) for used in raw["maps"])
        down = tuple(map(float, raw.get("down", ())))
        seeds = tuple(map(int, raw.get("seeds", ())))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"This is not the JSON file of a grid ({error!r}). Choose one that was downloaded "
            "with a grid's picture."
        ) from error
    if version not in (WITHOUT_SEEDS, FORMAT_VERSION):
        raise ConfigError(
            f"The grid's file has format {version!r}; this version reads {FORMAT_VERSION}. "
            "Update lineas_core."
        )
    return Scene(model, "image", prompts, maps, seeds or seed, strengths, down)


def _used_map(
    name: str, digest: str, strength: float | None = None, inverse: bool = False
) -> UsedMap:
    """A map as the file holds it; the digest must be there."""
    if not digest:
        raise ValueError(f"the map {name!r} has no digest")
    number = None if strength is None else float(strength)
    return UsedMap(str(name), number, bool(inverse), str(digest))


def draw_grid(grid: ImageGrid, scores: GridScores | None = None, cell: int = 160) -> Image.Image:
    """The grid as one picture, prompts at the left, strengths above, scores below each cell."""
    label, head, foot, gap = 190, 40, 24 if scores else 0, 10
    width = label + len(grid.strengths) * (cell + gap) + gap
    height = head + len(grid.prompts) * (cell + foot + gap) + gap
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for column, strength in enumerate(grid.strengths):
        left = label + column * (cell + gap)
        pen.text((left + cell / 2, head / 2), f"strength {strength:g}", INK, font, anchor="mm")
        for row, images in enumerate(grid.images):
            top = head + row * (cell + foot + gap)
            sheet.paste(_scaled(images[column], cell), (left, top))
            if scores:
                text = f"CLIP {scores.clip[row][column]:.2f}   IMG {scores.image[row][column]:.2f}"
                place = (left + cell / 2, top + cell + foot / 2)
                pen.text(place, text, FAINT, small, anchor="mm")
    for row, prompt in enumerate(grid.prompts):
        middle = head + row * (cell + foot + gap) + cell / 2
        text = _wrapped(prompt, pen, font, label - 2 * gap)
        pen.multiline_text((gap, middle), text, INK, font, anchor="lm", spacing=5)
    return sheet


def draw_film(grid: ImageGrid, cell: int = 160) -> bytes:
    """A looping GIF that goes through the strengths and back, the prompts side by side."""
    frames = []
    for column, strength in enumerate(grid.strengths):
        frame = Image.new("RGB", (len(grid.prompts) * cell, cell + 28), PAPER)
        for row, images in enumerate(grid.images):
            frame.paste(_scaled(images[column], cell), (row * cell, 0))
        ImageDraw.Draw(frame).text(
            (frame.width / 2, cell + 14),
            f"strength {strength:g}",
            INK,
            ImageFont.load_default(15),
            anchor="mm",
        )
        frames.append(frame)
    there_and_back = frames + frames[-2:0:-1]
    file = io.BytesIO()
    there_and_back[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=there_and_back[1:],
        duration=round(1000 * SECONDS_A_FRAME),
        loop=0,
    )
    return file.getvalue()


def _scaled(image: Image.Image, side: int) -> Image.Image:
    return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def _wrapped(
    text: str,
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    """The text in lines that fit, five at most."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or pen.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines if len(lines) <= 5 else [*lines[:4], f"{lines[4]} …"])
