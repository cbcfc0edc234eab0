"""`python -m lineas_core ...`: every action of the app from a terminal.

Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 interrupted.
With --json the result goes to standard output as one JSON value, and nothing else does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lineas_core.errors import ConfigError, LineasError

app = typer.Typer(
    help="Steer generative models by one learned scale and shift per neuron.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)
out = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Short name, folder or hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
MapSpecs = Annotated[
    list[str] | None,
    typer.Option("--map", help="FILE or FILE@STRENGTH; repeat to compose in order."),
]


@app.command()
def train(
    prompts: Annotated[str, typer.Argument(help="A shipped set's name, or a JSON file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the map goes.")],
    model: ModelName = "smollm2",
    method: Annotated[str, typer.Option(help="lineas or lin-act.")] = "lineas",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of TrainConfig, as steps=200; repeat for more."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Learn a map from a prompt set. Ctrl-C keeps the map reached so far."""
    import lineas_core as lc

    prompt_set = lc.PromptSet.load(prompts)
    for issue in prompt_set.issues():
        console.print(str(issue), style="yellow", highlight=False)
    loaded = _load(model, device)
    config = lc.TrainConfig.for_model(loaded, **_settings(setting or []))
    if method != "lineas":
        smap = lc.fit(method, loaded, prompt_set, config)
        smap.save(output)
        _show({"map": str(output), "support": smap.support()}, as_json)
        return
    with _progress(as_json) as progress:
        task = progress.add_task("training", total=config.steps, loss=float("nan"))

        def on_event(event: lc.StepEvent) -> None:
            progress.update(task, completed=event.step, loss=event.loss)

        stopping = _InterruptFlag()
        with stopping:
            result = lc.train(
                loaded, prompt_set, config, on_event=on_event, should_stop=stopping.is_set
            )
    result.map.save(output)
    _show(
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
    prompt: Annotated[list[str], typer.Argument(help="One or more texts to continue.")],
    maps: MapSpecs = None,
    model: ModelName = "smollm2",
    tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 80,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Continue texts with maps on."""
    steer = _maps(maps or [])
    texts = _load(model, device).generate(
        prompt, steer, seed=seed, max_new_tokens=tokens, temperature=temperature
    )
    if as_json:
        _show(texts, as_json)
        return
    for start, text in zip(prompt, texts, strict=True):
        out.print(f"[bold]{_plain(start)}[/bold]{_plain(text)}\n", highlight=False)


@app.command()
def sweep(
    prompt: Annotated[list[str], typer.Argument(help="One or more texts to continue.")],
    maps: Annotated[
        list[str], typer.Option("--map", help="FILE is swept; FILE@STRENGTH stays there.")
    ],
    strengths: Annotated[str, typer.Option(help="Separated by commas.")] = "0,0.25,0.5,0.75,1",
    model: ModelName = "smollm2",
    tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 80,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Continue texts at several strengths, side by side."""
    try:
        columns = [float(s) for s in strengths.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"strengths is {strengths!r}; give numbers separated by commas."
        ) from error
    grid = _load(model, device).sweep(
        prompt,
        _map_specs(maps),
        columns,
        seed=seed,
        max_new_tokens=tokens,
        temperature=temperature,
    )
    if as_json:
        _show(asdict(grid), as_json)
        return
    for start, texts in zip(grid.prompts, grid.texts, strict=True):
        table = Table("strength", _plain(start), show_lines=True)
        for strength, text in zip(grid.strengths, texts, strict=True):
            table.add_row(f"{strength:g}", _plain(text))
        out.print(table)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A map file.")], as_json: AsJson = False
) -> None:
    """What a map file holds."""
    from lineas_core.maps import SteeringMap

    smap = SteeringMap.load(file)
    support = smap.support_by_site()
    if as_json:
        _show({**asdict(smap.info), "support": smap.support(), "sites": support}, as_json)
        return
    _show({**asdict(smap.info), "support": smap.support()}, as_json)
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
    """The models that go by a short name."""
    from lineas_core.models.catalog import catalog

    if as_json:
        _show([asdict(entry) for entry in catalog().values()], as_json)
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
    """List the shipped prompt sets, or check one set and list what is odd about it."""
    from lineas_core.prompts import PromptSet, shipped_prompt_sets

    sets = [PromptSet.load(n) for n in ([name] if name else shipped_prompt_sets())]
    if as_json:
        rows = [{**asdict(s), "issues": [asdict(i) for i in s.issues()]} for s in sets]
        _show(rows[0] if name else rows, as_json)
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
    table: Annotated[str, typer.Argument(help="Which table: concepts.")],
    model: ModelName = "smollm2",
    concept: Annotated[
        list[str] | None, typer.Option(help="Concepts; all with a word list by default.")
    ] = None,
    completions: Annotated[int, typer.Option(help="Per strength.")] = 100,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the methods, and print a table."""
    from lineas_core.evaluation.concepts import concept_table, evaluate_concepts
    from lineas_core.metrics.concepts import concept_words

    if table != "concepts":
        raise ConfigError(f"table is {table!r}; choose concepts.")
    results = evaluate_concepts(
        _load(model, device),
        concept or list(concept_words()),
        completions=completions,
        on_event=lambda line: console.print(line, highlight=False),
    )
    if as_json:
        _show(results.to_dict(orient="records"), as_json)
    else:
        print(concept_table(results))


def main() -> None:
    """Run the command line; errors of this library become one line and exit code 1."""
    try:
        app()
    except LineasError as error:
        console.print(f"[bold red]error[/bold red] {_plain(str(error))}", highlight=False)
        sys.exit(1)


class _InterruptFlag:
    """While entered, Ctrl-C sets the flag; a second Ctrl-C interrupts as usual."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def __enter__(self) -> None:
        import signal

        def handle(number: int, frame: Any) -> None:
            self._set = True
            signal.signal(signal.SIGINT, self._previous)
            console.print("stopping after this step; Ctrl-C again to drop everything")

        self._previous = signal.signal(signal.SIGINT, handle)

    def __exit__(self, *exc: object) -> None:
        import signal

        signal.signal(signal.SIGINT, self._previous)


def _load(name: str, device: str) -> Any:
    import transformers

    from lineas_core.models import load_model

    transformers.utils.logging.disable_progress_bar()
    with console.status(f"loading {_plain(name)}"):
        return load_model(name, device=device)


def _map_specs(specs: list[str]) -> list[tuple[Any, float | None]]:
    from lineas_core.maps import SteeringMap

    maps: list[tuple[Any, float | None]] = []
    for spec in specs:
        path, at, strength = spec.rpartition("@")
        if not at or Path(spec).exists():
            maps.append((SteeringMap.load(spec), None))
            continue
        try:
            maps.append((SteeringMap.load(path), float(strength)))
        except ValueError as error:
            if isinstance(error, LineasError):
                raise
            raise ConfigError(
                f"map is {spec!r}; the strength after @ must be a number, as in {path}@0.5."
            ) from error
    return maps


def _maps(specs: list[str]) -> list[tuple[Any, float]]:
    return [(smap, 1.0 if strength is None else strength) for smap, strength in _map_specs(specs)]


def _settings(pairs: list[str]) -> dict[str, Any]:
    """`steps=200` and the like, each value in the type of the setting."""
    from lineas_core.trainer import TrainConfig

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        field = TrainConfig.__dataclass_fields__.get(name)
        if field is None or not equals:
            raise ConfigError(
                f"--set {pair!r} is not a setting; there are "
                f"{', '.join(TrainConfig.__dataclass_fields__)}, as in steps=200."
            )
        try:
            settings[name] = type(getattr(TrainConfig, name))(text)
        except ValueError as error:
            raise ConfigError(f"{name} is {text!r}; it must be a number.") from error
    return settings


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


def _show(value: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        out.print_json(json.dumps(value, ensure_ascii=False))


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet) as progress:
        yield progress
