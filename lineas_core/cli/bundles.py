"""`lineas bundle | unbundle`: a result and all that reproduces it, in one file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lineas_core.cli.options import (
    DEFAULT_STRENGTHS,
    AsJson,
    Device,
    ModelName,
    Seed,
    Strengths,
    SweptMapsOrNone,
    Tokens,
    load,
    numbers,
    split_spec,
)
from lineas_core.cli.terminal import console, plain, show
from lineas_core.errors import ConfigError

if TYPE_CHECKING:
    from lineas_core.models.load import Model
    from lineas_core.scenes.bundle import Bundle


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (bundle, unbundle):
        app.command()(command)


def bundle(
    prompt: Annotated[list[str], typer.Argument(help="Texts to continue, or things to picture.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle, a zip file.")],
    maps: SweptMapsOrNone = None,
    strengths: Strengths = DEFAULT_STRENGTHS,
    model: ModelName = "smollm2",
    prompts: Annotated[
        str, typer.Option(help="The prompt set that the map was learned from, to include.")
    ] = "",
    tokens: Tokens = 80,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Generate a result and save it as a bundle: one file with all that reproduces it."""
    from lineas_core.maps.steering_map import SteeringMap
    from lineas_core.models.language.model import LanguageModel
    from lineas_core.prompts.prompt_set import PromptSet
    from lineas_core.scenes.bundle import Bundle, write_bundle
    from lineas_core.scenes.revision import model_revision
    from lineas_core.scenes.scene import Scene, UsedMap

    specs = [(Path(path), strength) for path, strength in map(split_spec, maps or [])]
    if len({path.name for path, _ in specs}) < len({path.resolve() for path, _ in specs}):
        raise ConfigError("Two maps have the same file name. Rename one of them.")
    loaded = load(model, device)
    modality: Literal["text", "image"] = "text" if isinstance(loaded, LanguageModel) else "image"
    swept = any(strength is None for _, strength in specs)
    scene = Scene(
        model=model,
        modality=modality,
        prompts=tuple(prompt),
        maps=tuple(UsedMap(path.name, strength) for path, strength in specs),
        seed=seed,
        strengths=tuple(numbers(strengths)) if swept or not specs else (0.0, 1.0),
        max_new_tokens=tokens,
    )
    made = Bundle(
        scene=scene,
        maps={path.name: SteeringMap.load(path) for path, _ in specs},
        revision=model_revision(loaded),
        prompts=PromptSet.load(prompts) if prompts else None,
    )
    write_bundle(output, _with_result(made, loaded))
    show({"bundle": str(output), "revision": made.revision}, as_json)


def unbundle(
    file: Annotated[Path, typer.Argument(help="A bundle.")],
    to: Annotated[Path, typer.Option(help="A new folder for the contents.")],
    as_json: AsJson = False,
) -> None:
    """Unpack a bundle, with a scene.py that reproduces the result."""
    from lineas_core.scenes.bundle import read_bundle, unpack_bundle

    opened = read_bundle(file)
    for note in opened.notes:
        console.print(plain(note), style="yellow", highlight=False)
    files = unpack_bundle(opened, to)
    show(
        {
            "files": [str(path) for path in files],
            "model": opened.scene.model,
            "revision": opened.revision,
            "again": f"cd {to} && python scene.py",
        },
        as_json,
    )


def _with_result(made: Bundle, model: Model) -> Bundle:
    from dataclasses import replace

    from lineas_core.models.language.model import LanguageModel
    from lineas_core.scenes.drawing import draw_grid
    from lineas_core.scenes.grid import make_grid

    scene = made.scene
    if isinstance(model, LanguageModel):
        maps = [(made.maps[used.name], used.strength) for used in scene.maps]
        texts = model.sweep(
            scene.prompts,
            maps,
            scene.strengths,
            seed=scene.seed,
            max_new_tokens=scene.max_new_tokens,
            temperature=scene.temperature,
        ).texts
        return replace(made, texts=tuple(map(tuple, texts)))
    picture = io.BytesIO()
    draw_grid(make_grid(scene, model, made.maps.__getitem__)).save(picture, "PNG")
    return replace(made, grid=picture.getvalue())
