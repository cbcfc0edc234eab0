"""`lineas write ...`: let a language model write a prompt set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineas_core.cli.options import AsJson, Device, load_text
from lineas_core.cli.terminal import InterruptFlag, console, show
from lineas_core.errors import ConfigError
from lineas_core.system.files import write_whole

if TYPE_CHECKING:
    from lineas_core.prompts.files import Format

FORMATS: dict[str, Format] = {".json": "json", ".csv": "csv", ".txt": "txt"}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(write)


def write(
    concept: Annotated[str, typer.Argument(help="A concept or style in a few words.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help=".json, .csv or .txt (one file per side).")
    ],
    image: Annotated[bool, typer.Option("--image", help="Captions, and captions in a style.")] = (
        False
    ),
    model: Annotated[str, typer.Option("--model", "-m", help="The model to use.")] = "smollm2",
    count: Annotated[int, typer.Option(help="Prompts per side.")] = 32,
    seconds: Annotated[float, typer.Option(help="Stop after this long.")] = 85.0,
    seed: Annotated[int, typer.Option(help="Same seed, same prompts.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a prompt set with a language model. Ctrl-C saves the prompts written so far."""
    from lineas_core.prompts.files import write_prompts
    from lineas_core.prompts.writing.writer import write_image_prompts, write_text_prompts

    ending = output.suffix.lower()
    if ending not in FORMATS:
        raise ConfigError(f"output is {output}; it must end in {', '.join(FORMATS)}.")
    writer = load_text(model, device)
    stopping = InterruptFlag()
    start = write_image_prompts if image else write_text_prompts
    with stopping, console.status("writing") as status:
        for draft in start(
            writer, concept, count=count, seed=seed, seconds=seconds, should_stop=stopping.is_set
        ):
            status.update(f"{len(draft.source)} source, {len(draft.target)} target")
    prompts = draft.to_prompt_set(output.stem, draft.concept, "image" if image else "text")
    files = []
    for name, data in write_prompts(prompts, FORMATS[ending]).items():
        file = output.parent / name
        try:
            write_whole(file, data)
        except OSError as error:
            raise ConfigError(f"Cannot write {file} ({error}). Choose another folder.") from error
        files.append(str(file))
    if draft.message:
        console.print(draft.message, style="yellow", highlight=False)
    if draft.variety:
        console.print(draft.variety, highlight=False)
    show(
        {
            "files": files,
            "source": len(draft.source),
            "target": len(draft.target),
            "frames": len(draft.frames),
            "own_words": list(draft.own),
            "tried": draft.tried,
            "refused": dict(draft.refused),
            "seconds": round(draft.seconds, 1),
        },
        as_json,
    )
