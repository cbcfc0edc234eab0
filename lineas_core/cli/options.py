"""Options that several commands share, and their values as maps, models and settings.

Slow imports are inside the functions that need them, so that --help is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineas_core.cli.terminal import console, plain
from lineas_core.errors import ConfigError

if TYPE_CHECKING:
    from lineas_core.maps.steering_map import SteeringMap
    from lineas_core.models.image.model import DiffusionModel
    from lineas_core.models.language.model import LanguageModel
    from lineas_core.models.load import Model


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Short name, folder or hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
_FIXED = typer.Option("--map", help="FILE or FILE@STRENGTH; the first applies first.")
_SWEPT = typer.Option("--map", help="FILE is swept; FILE@STRENGTH stays there.")
FixedMaps = Annotated[list[str], _FIXED]
FixedMapsOrNone = Annotated[list[str] | None, _FIXED]
SweptMaps = Annotated[list[str], _SWEPT]
SweptMapsOrNone = Annotated[list[str] | None, _SWEPT]
Strengths = Annotated[str, typer.Option(help="Strengths of the sweep, separated by commas.")]
Tokens = Annotated[int, typer.Option(help="Maximum number of new tokens.")]
Temperature = Annotated[float, typer.Option(help="0 picks the likeliest token.")]
Texts = Annotated[list[str], typer.Argument(help="One or more texts to continue.")]
GridFile = Annotated[Path, typer.Option("--output", "-o", help="The grid, as PNG.")]
MapFile = Annotated[Path, typer.Argument(help="A map file.")]
NewMapFile = Annotated[Path, typer.Option("--output", "-o", help="The map file to write.")]
Repository = Annotated[str, typer.Argument(help="USER/NAME on the Hugging Face Hub.")]
DEFAULT_STRENGTHS = "0,0.25,0.5,0.75,1"


def numbers(text: str) -> list[float]:
    """Parse strengths separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"strengths is {text!r}; give numbers separated by commas.") from error


def load(name: str, device: str) -> Model:
    """Load a model by name, with a status line on the terminal meanwhile."""
    import transformers

    from lineas_core.models.load import load_model

    transformers.utils.logging.disable_progress_bar()
    with console.status(f"loading {plain(name)}"):
        return load_model(name, device=device)


def load_text(name: str, device: str) -> LanguageModel:
    """Load a language model; raise if the name is that of an image model."""
    from lineas_core.models.load import as_language_model

    return as_language_model(load(name, device))


def load_image(name: str, device: str) -> DiffusionModel:
    """Load an image model; raise if the name is that of a language model."""
    from lineas_core.models.load import as_image_model

    return as_image_model(load(name, device))


def pairs_of(pairs: list[str]) -> dict[str, str]:
    """Parse settings such as `completions=50` into name -> text."""
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r} is not a setting; write it as completions=50.")
        found[name] = text
    return found


def seeds_of(text: str) -> list[int]:
    """Parse seeds separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"seeds is {text!r}; give whole numbers separated by commas.") from error


def split_spec(spec: str) -> tuple[str, float | None]:
    """Split FILE or FILE@STRENGTH into file and strength; None if no strength is given."""
    path, at, strength = spec.rpartition("@")
    if not at or Path(spec).exists():
        return spec, None
    try:
        return path, float(strength)
    except ValueError as error:
        raise ConfigError(
            f"map is {spec!r}; the strength after @ must be a number, as in {path}@0.5."
        ) from error


def swept_maps(specs: list[str]) -> list[tuple[SteeringMap, float | None]]:
    """Load maps given as FILE or FILE@STRENGTH; the strength is None (swept) if not given."""
    from lineas_core.maps.steering_map import SteeringMap

    return [(SteeringMap.load(path), strength) for path, strength in map(split_spec, specs)]


def fixed_maps(specs: list[str]) -> list[tuple[SteeringMap, float]]:
    """Load maps given as FILE or FILE@STRENGTH; the strength is 1 if not given."""
    return [(smap, 1.0 if strength is None else strength) for smap, strength in swept_maps(specs)]


def train_settings(pairs: list[str]) -> dict[str, Any]:
    """Parse settings such as `steps=200`, each value converted to the type of its field."""
    from lineas_core.training.config import TrainConfig

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        field = TrainConfig.__dataclass_fields__.get(name)
        if field is None or not equals:
            raise ConfigError(
                f"--set {pair!r} is not a setting; choose among "
                f"{', '.join(TrainConfig.__dataclass_fields__)}, as in steps=200."
            )
        try:
            default = getattr(TrainConfig, name)
            # Only the rate has no number by default: it is measured.
            kind = float if default is None else type(default)
            settings[name] = None if (default, text) == (None, "measured") else kind(text)
        except ValueError as error:
            raise ConfigError(f"{name} is {text!r}; it must be a number.") from error
    return settings
