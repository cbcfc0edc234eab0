"""Image grids: generate and score them, and the JSON sidecar that reproduces one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from lineas_core.errors import ConfigError, MapError
from lineas_core.maps.steering_map import SteeringMap, Strength
from lineas_core.metrics.clip import AUTO, clip_score, img_score
from lineas_core.models.image.model import DiffusionModel, ImageGrid
from lineas_core.models.shared.batches import in_rows
from lineas_core.scenes.scene import Scene, UsedMap
from lineas_core.scenes.scores import GridScores

FORMAT_VERSION = 2
# Written for scenes without per-prompt seeds, so that older versions can still read the file.
WITHOUT_SEEDS = 1


def make_grid(scene: Scene, model: DiffusionModel, find: Callable[[str], SteeringMap]) -> ImageGrid:
    """Generate the pictures of a scene at each of its strengths.

    Args:
        scene: an image scene with strengths.
        model: the model that `scene.model` names.
        find: map name -> map.

    Returns:
        The grid. Row labels include the seed if each row has its own, and the strength if the
        rows are strengths of a second map.

    Raises:
        MapError: a map's digest differs from the one in the scene.
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
    """Sweep two maps: columns are strengths of the first, rows strengths of the second."""
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
        grid: its strengths must include 0.
        style: what steered images should look like.
        crossed: the rows are strengths of a second map, so IMGScore compares every cell with the
            first row.
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
    """The JSON file saved beside a grid's picture, from which the grid can be reproduced.

    Args:
        scene: an image scene whose maps have digests.
        scores: for people and other programs; not read back.

    Raises:
        ConfigError: the scene is not of images, or a map has no digest.
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
    """Parse the scene from a file that `write_sidecar` wrote.

    Raises:
        ConfigError: it is not such a file, has a newer format, or holds an invalid scene.
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
    """A map entry of the sidecar; the digest is required."""
    if not digest:
        raise ValueError(f"the map {name!r} has no digest")
    number = None if strength is None else float(strength)
    return UsedMap(str(name), number, bool(inverse), str(digest))
