"""`lineas generate | sweep`: texts at one strength or at several."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table

from lineas_core.cli.options import (
    DEFAULT_STRENGTHS,
    AsJson,
    Device,
    FixedMapsOrNone,
    ModelName,
    Seed,
    Strengths,
    SweptMaps,
    Temperature,
    Texts,
    Tokens,
    fixed_maps,
    load_text,
    numbers,
    swept_maps,
)
from lineas_core.cli.terminal import out, plain, show


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (generate, sweep):
        app.command()(command)


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
