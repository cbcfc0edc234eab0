"""Write tables, and the values behind charts, as CSV files."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lineas_core.diagnostics.report import HealthReport
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import ImageGrid
from lineas_core.models.shared.batches import TextGrid
from lineas_core.prompts.csv_injection import escaped
from lineas_core.scenes.scores import GridScores
from lineas_core.studio.answers.readouts import Readout
from lineas_core.system.files import write_whole

Row = Sequence[Any]
Table = tuple[list[str], list[Row]]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Row]) -> str:
    """Write a CSV file that spreadsheets open without an import dialog, and return its path.

    Escapes text cells against formula injection; writes numbers in full precision, and None as an
    empty cell.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    for row in (header, *rows):
        writer.writerow([escaped(cell) if isinstance(cell, str) else cell for cell in row])
    # Without a byte order mark, spreadsheets would decode UTF-8 in the system's encoding.
    return str(write_whole(path, file.getvalue().encode("utf-8-sig")))


def score_rows(grid: ImageGrid, scores: GridScores) -> Table:
    """Header and rows of a scored grid: one row per image, then the means per strength."""
    rows: list[Row] = [
        (prompt, strength, scores.clip[r][c], scores.image[r][c])
        for r, prompt in enumerate(grid.prompts)
        for c, strength in enumerate(grid.strengths)
    ]
    for c, strength in enumerate(grid.strengths):
        columns = ([row[c] for row in side] for side in (scores.clip, scores.image))
        rows.append(("(mean)", strength, *map(statistics.fmean, columns)))
    return ["row", "strength", f"CLIPScore with {scores.style}", "IMGScore"], rows


def text_rows(grid: TextGrid, readouts: Sequence[Readout], seed: int) -> Table:
    """Header and rows of a text sweep: one row per completion, then the metrics per strength."""
    header = ["seed", "strength", "prompt", "completion", "concept", "toxicity", "perplexity"]
    rows: list[Row] = [
        (seed + r, strength, prompt, grid.texts[r][c], None, None, None)
        for r, prompt in enumerate(grid.prompts)
        for c, strength in enumerate(grid.strengths)
    ]
    for strength, found in zip(grid.strengths, readouts, strict=True):
        present = "; ".join(f"{name} {n} of {all_}" for name, n, all_ in found.presence)
        rows.append(("all", strength, None, None, present, found.toxicity, found.perplexity))
    return header, rows


def site_rows(smap: SteeringMap, health: HealthReport | None) -> Table:
    """Header and rows of the values behind the charts by layer: one row per site."""
    deltas = (health.held_out or health.training) if health else None
    quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
    header = ["site", "neurons", "share changed"]
    header += [f"{part} {q * 100:g} %" for part in ("scale - 1", "shift") for q in quantiles]
    header += ["Delta, map off", "Delta, map on"]
    rows: list[Row] = []
    support = smap.support_by_site()
    for site, affine in smap.sites.items():
        spread: list[float | None] = []
        for values in (affine.scale - 1, affine.shift):
            changed = values[values != 0].double()
            spread += [float(changed.quantile(q)) if len(changed) else None for q in quantiles]
        before = deltas.before.get(site) if deltas else None
        after = deltas.after.get(site) if deltas else None
        rows.append((site, smap.widths[site], support[site], *spread, before, after))
    return header, rows


def loss_rows(losses: Sequence[float], supports: Sequence[float] = ()) -> Table:
    """Header and rows of the training curves: one row per step."""
    rows: list[Row] = [
        (n + 1, loss, supports[n] if n < len(supports) else None) for n, loss in enumerate(losses)
    ]
    return ["step", "loss", "share of neurons changed"], rows
