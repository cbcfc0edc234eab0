"""`lineas train`: learn a map."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lineas_core.cli.options import AsJson, Device, ModelName, NewMapFile, load, train_settings
from lineas_core.cli.terminal import InterruptFlag, console, show, training_progress
from lineas_core.errors import ConfigError
from lineas_core.methods.names import DEFAULT_METHOD, STEPWISE, check_method


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(train)


def train(
    prompts: Annotated[str, typer.Argument(help="A shipped set's name, or a JSON file.")],
    output: NewMapFile,
    model: ModelName = "smollm2",
    method: Annotated[
        str, typer.Option(help="lineas, lineas+, lin-act, or another of docs/methods.md.")
    ] = DEFAULT_METHOD,
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
    config = lc.TrainConfig.for_model(loaded, method, **train_settings(setting or []))
    check_method(method)
    if method not in STEPWISE:
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
                loaded,
                prompt_set,
                config,
                method=method,
                on_event=on_event,
                should_stop=stopping.is_set,
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
