"""The definition of a table or figure, and how its results are written."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import pandas as pd
import torch

from lineas_core.errors import ConfigError
from lineas_core.evaluation.cells import Bench
from lineas_core.system.files import replacing, write_whole
from lineas_core.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper that can be reproduced.

    Attributes:
        name: its name on the command line.
        title: one line.
        source: the table or section of the paper.
        model: the model to measure by default.
        sizes: a frozen dataclass of ints, floats, and tuples of one type; its defaults suit the
            embedded models.
        measure: bench, sizes, seeds -> results, one row per measurement.
        write: results -> Markdown.
        draw: draws results into an empty figure.
    """

    name: str
    title: str
    source: str
    model: str
    sizes: type[Any]
    measure: Callable[[Bench, Any, Sequence[int]], pd.DataFrame]
    write: Callable[[pd.DataFrame], str]
    draw: Callable[[pd.DataFrame, Figure], None]

    def sized(self, changes: Mapping[str, str]) -> Any:
        """The sizes with `changes` given as text: `completions=50`, `concepts=day,night`.

        Raises:
            ConfigError: there is no such size, or the value has the wrong type.
        """
        kinds = get_type_hints(self.sizes)
        values: dict[str, Any] = {}
        for name, text in changes.items():
            if name not in kinds:
                raise ConfigError(f"{self.name} has no {name!r} to set; it has {', '.join(kinds)}.")
            try:
                kind = kinds[name]
                values[name] = kind(text) if kind in (int, float) else _listed(text, kind)
            except ValueError as error:
                raise ConfigError(f"{name} is {text!r}; {error}.") from error
        return self.sizes(**values)


def write_results(
    table: Table, results: pd.DataFrame, folder: Path, command: str, seeds: Sequence[int]
) -> list[Path]:
    """Write NAME.csv, NAME.md and NAME.png into `folder`.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "matplotlib draws the plots and is not installed; "
            "run pip install 'lineas-studio[eval]'."
        ) from error
    files = [folder / f"{table.name}.{kind}" for kind in ("csv", "md", "png")]
    write_whole(files[0], results.to_csv(index=False))
    head = [
        f"# {table.title}",
        "",
        f"{table.source}. Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}, "
        f"{_machine()}, seeds {', '.join(map(str, seeds))}, version {__version__}.",
        "",
    ]
    write_whole(files[1], "\n".join([*head, table.write(results), ""]))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    table.draw(results, figure)
    with replacing(files[2]) as partial:
        figure.savefig(partial, dpi=150, format="png")
    return files


def markdown(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """Format rows as a Markdown table."""
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    lines += [" | ".join(map(str, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def with_spread(mean: float, deviation: float, form: str = ".2f") -> str:
    """Format as `0.42 ± 0.03`, or `0.42` if the deviation is 0."""
    return f"{mean:{form}} ± {deviation:{form}}" if deviation else f"{mean:{form}}"


def fields(sizes: Any) -> dict[str, Any]:
    """A dataclass's values as a dict, for cells that depend on all of them."""
    return dataclasses.asdict(sizes)


def _listed(text: str, kind: Any) -> tuple[Any, ...]:
    part = kind.__args__[0]
    return tuple(part(item.strip()) for item in text.split(",") if item.strip())


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"


def strength_table(results: pd.DataFrame, subject: str, cell: Callable[[Any], str]) -> str:
    """A row per subject and method, a column per strength, and a column with the fitting time.

    Args:
        results: has the columns `subject`, method, strength and fit_seconds.
        subject: name of the first column.
        cell: formats a row of the results as a cell's text.
    """
    strengths = sorted(results["strength"].unique())
    rows = []
    for (name, method), group in results.groupby([subject, "method"], sort=False):
        cells = [cell(row) for row in group.sort_values("strength").itertuples()]
        rows.append([name, method, *cells, f"{group['fit_seconds'].iloc[0]:.0f} s"])
    return markdown(rows, [subject, "method", *(f"s = {s:g}" for s in strengths), "fit"])
