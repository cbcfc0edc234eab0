"""`lineas ...`: every action of the app from a terminal.

Exit codes: 0 success, 1 an error with a message, 2 wrong usage, 130 interrupted.
With --json, standard output holds only the result, as one JSON value.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lineas_core.cli import fold, sharing, studio, write
from lineas_core.cli.options import (
    DEFAULT_STRENGTHS,
    AsJson,
    Device,
    FixedMapsOrNone,
    GridFile,
    MapFile,
    ModelName,
    NewMapFile,
    Seed,
    Strengths,
    SweptMaps,
    Temperature,
    Texts,
    Tokens,
    fixed_maps,
    load,
    load_image,
    load_text,
    numbers,
    pairs_of,
    seeds_of,
    split_spec,
    swept_maps,
    train_settings,
)
from lineas_core.cli.terminal import InterruptFlag, console, out, plain, show, training_progress
from lineas_core.errors import ConfigError, LineasError
from lineas_core.evaluation.tables import NAMES, find_table

if TYPE_CHECKING:
    from lineas_core.scenes.scene import Scene

app = typer.Typer(
    help="Steer generative models by one learned scale and shift per neuron.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def train(
    prompts: Annotated[str, typer.Argument(help="A shipped set's name, or a JSON file.")],
    output: NewMapFile,
    model: ModelName = "smollm2",
    method: Annotated[
        str, typer.Option(help="lineas, lin-act, or another of docs/methods.md.")
    ] = "lineas",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of TrainConfig, as steps=200; repeat for more."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Learn a map from a prompt set. Ctrl-C stops early and saves the map trained so far.

    Under `accelerate launch` the processes share the prompts of each step.
    """
    import lineas_core as lc
    from lineas_core.training import distributed

    prompt_set = lc.PromptSet.load(prompts)
    ranks = distributed.join(device)
    for issue in prompt_set.issues() if ranks.first else ():
        console.print(str(issue), style="yellow", highlight=False)
    loaded = load(model, device)
    config = lc.TrainConfig.for_model(loaded, **train_settings(setting or []))
    if method != "lineas":
        if ranks.count > 1:
            raise ConfigError(f"method is {method!r}, which runs in one process; launch only one.")
        smap = lc.fit(method, loaded, prompt_set, config)
        smap.save(output)
        show({"map": str(output), "support": smap.support()}, as_json)
        return
    with training_progress(as_json or not ranks.first) as progress:
        task = progress.add_task("training", total=config.steps, loss=float("nan"))

        def on_event(event: lc.StepEvent) -> None:
            progress.update(task, completed=event.step, loss=event.loss)

        stopping = InterruptFlag()
        with stopping:
            result = lc.train(
                loaded, prompt_set, config, on_event=on_event, should_stop=stopping.is_set
            )
    if ranks.first:
        result.map.save(output)
        show(
            {
                "map": str(output),
                "steps": len(result.losses),
                "seconds": round(result.seconds, 1),
                "loss": [result.losses[0], result.losses[-1]] if result.losses else [],
                "health": _health(result.health),
            },
            as_json,
        )
    if result.cancelled:
        raise typer.Exit(130)


@app.command()
def generate(
    prompt: Texts,
    maps: FixedMapsOrNone = None,
    model: ModelName = "smollm2",
    tokens: Tokens = 80,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Continue texts with maps applied."""
    steer = fixed_maps(maps or [])
    texts = load_text(model, device).generate(
        prompt, steer, seed=seed, max_new_tokens=tokens, temperature=temperature
    )
    if as_json:
        show(texts, as_json)
        return
    for start, text in zip(prompt, texts, strict=True):
        out.print(f"[bold]{plain(start)}[/bold]{plain(text)}\n", highlight=False)


@app.command()
def sweep(
    prompt: Texts,
    maps: SweptMaps,
    strengths: Strengths = DEFAULT_STRENGTHS,
    model: ModelName = "smollm2",
    tokens: Tokens = 80,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Continue texts at several strengths, side by side."""
    columns = numbers(strengths)
    grid = load_text(model, device).sweep(
        prompt,
        swept_maps(maps),
        columns,
        seed=seed,
        max_new_tokens=tokens,
        temperature=temperature,
    )
    if as_json:
        show(asdict(grid), as_json)
        return
    for start, texts in zip(grid.prompts, grid.texts, strict=True):
        table = Table("strength", plain(start), show_lines=True)
        for strength, text in zip(grid.strengths, texts, strict=True):
            table.add_row(f"{strength:g}", plain(text))
        out.print(table)


@app.command()
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


@app.command()
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


@app.command()
def inspect(file: MapFile, as_json: AsJson = False) -> None:
    """Show the contents of a map file."""
    from lineas_core.maps.steering_map import SteeringMap

    smap = SteeringMap.load(file)
    support = smap.support_by_site()
    if as_json:
        show({**asdict(smap.info), "support": smap.support(), "sites": support}, as_json)
        return
    show({**asdict(smap.info), "support": smap.support()}, as_json)
    table = Table("site", "width", "support", "largest |w-1|", "largest |b|")
    for name, (scale, shift) in smap.sites.items():
        table.add_row(
            name,
            str(scale.numel()),
            f"{support[name]:.0%}",
            f"{float((scale - 1).abs().max()):.3g}",
            f"{float(shift.abs().max()):.3g}",
        )
    out.print(table)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that have a short name."""
    from lineas_core.models.shared.catalog import catalog

    if as_json:
        show([asdict(entry) for entry in catalog().values()], as_json)
        return
    table = Table("name", "title", "kind", "dtype", "memory", "licence")
    for entry in catalog().values():
        table.add_row(
            entry.id, entry.title, entry.kind, entry.dtype, f"{entry.memory:g} GiB", entry.license
        )
    out.print(table)


@app.command()
def prompts(
    name: Annotated[str | None, typer.Argument(help="A set to check; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped prompt sets, or check one set and list its warnings."""
    from lineas_core.prompts.prompt_set import PromptSet, shipped_prompt_sets

    sets = [PromptSet.load(n) for n in ([name] if name else shipped_prompt_sets())]
    if as_json:
        rows = [{**asdict(s), "issues": [asdict(i) for i in s.issues()]} for s in sets]
        show(rows[0] if name else rows, as_json)
        return
    table = Table("name", "title", "source", "target", "concept")
    for s in sets:
        table.add_row(s.name, s.title, str(len(s.source)), str(len(s.target)), s.concept)
    out.print(table)
    if name:
        for issue in sets[0].issues():
            out.print(str(issue), highlight=False)


@app.command()
def evaluate(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The embedded one by default.")] = "",
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A size of the table, as completions=50; repeat for more."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder; user data by default.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Ray processes to measure in; 0 uses this process.")
    ] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Reproduce a table of the papers: CSV, Markdown and a plot. Measured cells are reused."""
    found = find_table(table)
    sizes, chosen = found.sized(pairs_of(setting or [])), seeds_of(seeds)

    from lineas_core.evaluation.cells import Bench
    from lineas_core.evaluation.report import write_results
    from lineas_core.system.home import lineas_home

    # With workers, this process only reads the model's settings.
    loaded = load(model or found.model, "cpu" if workers else device)
    folder = output or lineas_home() / "evaluation" / re.sub(r"[^\w.-]+", "-", loaded.id)
    bench = Bench(loaded, folder, _tell)
    if workers:
        from lineas_core.evaluation.workers import measure_with

        results = measure_with(found, bench, sizes, chosen, workers=workers, device=device)
    else:
        results = found.measure(bench, sizes, chosen)
    command = " ".join(["lineas", *map(shlex.quote, sys.argv[1:])])
    files = write_results(found, results, folder, command, chosen)
    if as_json:
        show({"files": [str(file) for file in files]}, as_json)
    else:
        print(found.write(results))
        _tell(f"in {folder}: {', '.join(file.name for file in files)}")


fold.register(app)
write.register(app)
studio.register(app)
sharing.register(app)


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


def _tell(line: str) -> None:
    console.print(line, highlight=False)


def main() -> None:
    """Run the command line. Errors of this library print one line and exit with code 1."""
    for stream in (sys.stdout, sys.stderr):
        # A pipe has the locale's encoding, which on Windows lacks most of what models write.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    try:
        app()
    except LineasError as error:
        console.print(f"[bold red]error[/bold red] {plain(str(error))}", highlight=False)
        sys.exit(1)


def _health(health: Any) -> dict[str, Any]:
    return {
        "verdict": health.verdict,
        "advice": health.advice,
        "training": health.training.ratio,
        "held_out": health.held_out.ratio if health.held_out else None,
        "support": health.support,
        "largest_gain": health.largest_gain,
        "largest_shift": health.largest_shift,
        "surprise": health.surprise,
    }
