"""`lineas picture | again`: grids of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineas_core.cli.options import (
    DEFAULT_STRENGTHS,
    AsJson,
    Device,
    GridFile,
    ModelName,
    Seed,
    Strengths,
    SweptMaps,
    load_image,
    numbers,
    split_spec,
)
from lineas_core.cli.terminal import show
from lineas_core.errors import ConfigError

if TYPE_CHECKING:
    from lineas_core.scenes.scene import Scene


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (picture, again):
        app.command()(command)


def picture(
    prompt: Annotated[list[str], typer.Argument(help="One or more things to picture.")],
    output: GridFile,
    maps: SweptMaps,
    strengths: Strengths = DEFAULT_STRENGTHS,
    model: ModelName = "emoji-onestep",
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Generate pictures at several strengths: a PNG grid, its recipe (JSON) and an animated GIF."""
    from lineas_core.maps.steering_map import SteeringMap
    from lineas_core.scenes.scene import Scene, UsedMap

    scene = Scene(
        model=model,
        modality="image",
        prompts=tuple(prompt),
        maps=tuple(
            UsedMap(path, strength, digest=SteeringMap.load(path).digest())
            for path, strength in map(split_spec, maps)
        ),
        seed=seed,
        strengths=tuple(numbers(strengths)),
    )
    _write_grid(scene, output, device, as_json)


def again(
    recipe: Annotated[Path, typer.Argument(help="The JSON file that came with a grid.")],
    output: GridFile,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Reproduce a grid from its recipe."""
    from lineas_core.scenes.grid import read_sidecar

    try:
        text = recipe.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {recipe} ({error}). Check the path.") from error
    _write_grid(read_sidecar(text), output, device, as_json)


def _write_grid(scene: Scene, output: Path, device: str, as_json: bool) -> None:
    from lineas_core.maps.steering_map import SteeringMap
    from lineas_core.scenes.drawing import draw_film, draw_grid
    from lineas_core.scenes.grid import make_grid, score_grid, write_sidecar
    from lineas_core.system.files import replacing, write_whole

    swept = [scene.maps[place].name for place in scene.swept]
    concept = SteeringMap.load(swept[0]).info.concept if swept else ""
    grid = make_grid(scene, load_image(scene.model, device), SteeringMap.load)
    scores = score_grid(grid, concept, device=device) if concept and 0 in grid.strengths else None
    files = [output, output.with_suffix(".json"), output.with_suffix(".gif")]
    try:
        with replacing(output) as partial:
            draw_grid(grid, scores).save(partial, "PNG")
        write_whole(files[1], write_sidecar(scene, scores))
        write_whole(files[2], draw_film(grid))
    except OSError as error:
        raise ConfigError(f"Cannot write {output} ({error}). Choose another folder.") from error
    show({"files": [str(file) for file in files]}, as_json)
