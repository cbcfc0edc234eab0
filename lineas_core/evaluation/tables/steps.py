"""The effect of more prompts and more steps on a map, and the cost of learning one.

Every map is evaluated on the same held-out prompts, which no map learns from. The scores are the
share of their distance to the target that it closes, the share of completions of neutral openings
that contain the concept, and the perplexity of those completions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.errors import ConfigError
from lineas_core.evaluation.cells import Bench, Cell, Row, check_known, spread
from lineas_core.evaluation.report import Table, markdown, with_spread
from lineas_core.evaluation.tables.concepts import complete, presence
from lineas_core.methods.names import TITLES
from lineas_core.methods.variants.early_stop import train_until, warm_start
from lineas_core.prompts.prompt_set import MIN_PROMPTS, PromptSet
from lineas_core.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIXED, STOPPED, WARM = "fixed", "early stop", "early stop, warm start"
# Share of both sides of a prompt set that no map learns from, for evaluation.
HOLDOUT = 0.2
FORMS = {"closed": ".0%", "presence": ".0%", "perplexity": ".1f", "seconds": ".1f"}
BLOCKS: Mapping[str, tuple[str, str, str]] = {
    "data": ("Prompts a side", "prompts", "LinEAS with its shipped number of steps."),
    "steps": ("Steps", "steps", "LinEAS with a rate that falls to 0 at the last step."),
    "cost": ("Method", "method", "All with their shipped settings."),
    "stop": (
        "Training",
        "method",
        "LinEAS with its shipped number of steps, and ended by itself, for which a fifth of its "
        "prompts are held out again; the second of these begins at a weak Lin-AcT map.",
    ),
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the table.

    Args:
        concepts: prompt sets, by name or file, that have a word list under their name.
        prompts: numbers of prompts per side.
        steps: numbers of steps.
        methods: keys of `TITLES`, whose cost is measured.
        fixed: prompts per side in the blocks that vary something else.
        limit: maximum steps of a run with early stopping.
        completions: of neutral openings, per map.
        tokens: maximum tokens per completion.
    """

    concepts: tuple[str, ...] = ("football",)
    prompts: tuple[int, ...] = (4, 8, 16, 32)
    steps: tuple[int, ...] = (10, 30, 60, 120)
    methods: tuple[str, ...] = tuple(TITLES)
    fixed: int = 32
    limit: int = 120
    completions: int = 60
    tokens: int = 32


def first_prompts(prompts: PromptSet, count: int, seed: int) -> PromptSet:
    """`count` prompts per side that are not held out; a smaller count gives a subset.

    Below the minimum size of a set the prompts are repeated, which does not change their
    distribution.

    Args:
        prompts: the whole set.
        count: >= 1.
        seed: of the held-out draw, and of the order in which prompts are taken.

    Raises:
        ConfigError: there are fewer than `count`.
    """
    training, _ = prompts.split(HOLDOUT, seed)
    available = min(len(training.source), len(training.target))
    if not 1 <= count <= available:
        raise ConfigError(
            f"{count} prompts a side are asked for; {prompts.name!r} has {available} that are not "
            "held out. Choose 1 or more and no more than that, or give a file with more prompts."
        )
    times = math.ceil(MIN_PROMPTS / count)
    generator = torch.Generator().manual_seed(seed)
    source, target = (
        [lines[i] for i in torch.randperm(len(lines), generator=generator)[:count].tolist()] * times
        for lines in (training.source, training.target)
    )
    return replace(prompts, source=source, target=target)


def measure(bench: Bench, sizes: Sizes, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure a row per concept, block, value varied, and seed (of draws and completions).

    Raises:
        ConfigError: there is no such method.
    """
    check_known("methods", sizes.methods, TITLES)
    usual = TrainConfig.for_model(bench.model).steps
    varied: list[Cell] = [
        *({"block": "data", "method": "lineas", "prompts": n} for n in sizes.prompts),
        *({"block": "steps", "method": "lineas", "steps": n} for n in sizes.steps),
        *(
            {
                "block": "cost",
                "method": name,
                "steps": TrainConfig.for_model(bench.model, name).steps,
            }
            for name in sizes.methods
        ),
        {"block": "stop", "method": FIXED},
        *({"block": "stop", "method": name, "steps": sizes.limit} for name in (STOPPED, WARM)),
    ]
    cells = [
        {
            "concept": concept,
            "prompts": sizes.fixed,
            "steps": usual,
            **cell,
            "seed": seed,
            "completions": sizes.completions,
            "tokens": sizes.tokens,
        }
        for concept in sizes.concepts
        for cell in varied
        for seed in seeds
    ]
    return bench.rows("steps", cells, lambda cell: [_measure_cell(bench, cell)])


def _measure_cell(bench: Bench, cell: Cell) -> Row:
    seed, model = cell["seed"], bench.model
    whole = PromptSet.load(cell["concept"])
    prompts = first_prompts(whole, cell["prompts"], seed)
    method = "lineas" if cell["method"] in (FIXED, STOPPED, WARM) else cell["method"]
    config = TrainConfig.for_model(model, method, seed=seed, steps=cell["steps"], holdout=0.0)
    done = config.steps
    if cell["method"] in (STOPPED, WARM):
        config = replace(config, holdout=HOLDOUT)
        began = time.perf_counter()
        start = warm_start(model, prompts, config) if cell["method"] == WARM else None
        stopped = train_until(model, prompts, config, start=start)
        seconds = time.perf_counter() - began
        smap, done = stopped.map, stopped.steps
    else:
        smap, seconds = (fitted := bench.fit(method, prompts, config)).map, fitted.seconds
    _, held_out = whole.split(HOLDOUT, seed)
    # One measure for all methods, however they pool.
    pooling = TrainConfig.for_model(model).pooling
    distance = TargetDistance(
        model, held_out, list(smap.sites), pooling=pooling, batch_size=config.batch_size
    )
    made = complete(bench, smap, 1.0, cell["completions"], cell["tokens"], seed)
    return {
        "steps done": done,
        "closed": 1 - distance.left(smap)[0],
        "presence": presence(made.texts, whole.name),
        "perplexity": made.perplexity,
        "seconds": seconds,
    }


def write(results: pd.DataFrame) -> str:
    """A table per block."""
    parts = []
    for block, (head, key, note) in BLOCKS.items():
        forms = {**FORMS, "steps done": ".0f"} if block == "stop" else FORMS
        means = spread(results[results["block"] == block], ["concept", key], list(forms))
        rows = [
            [
                row["concept"],
                row[key],
                *(with_spread(row[v], row[f"{v}_sd"], form) for v, form in forms.items()),
            ]
            for row in means.to_dict("records")
        ]
        table = markdown(rows, ["concept", head.lower(), *forms])
        parts += [f"## {head}", "", note, "", table, ""]
    return "\n".join(parts).rstrip()


def draw(results: pd.DataFrame, figure: Figure) -> None:
    """Plot the effect against prompts and against steps, and the cost of each method."""
    axes: Sequence[Any] = figure.subplots(1, 3)
    for axis, block in zip(axes, ("data", "steps"), strict=False):
        head, key, _ = BLOCKS[block]
        means = spread(results[results["block"] == block], ["concept", key], list(FORMS))
        for concept, line in means.groupby("concept", sort=False):
            for value, style in (("closed", "-"), ("presence", "--")):
                axis.errorbar(
                    line[key], line[value], line[f"{value}_sd"],
                    marker="o", linestyle=style, label=f"{concept}: {value}",
                )  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_xlabel(head.lower())
    axes[0].legend()
    costs = spread(results[results["block"] == "cost"], ["method"], ["seconds"])
    axes[2].barh(costs["method"], costs["seconds"], xerr=costs["seconds_sd"])
    axes[2].set_xscale("log")
    axes[2].set_xlabel("seconds")


TABLE = Table(
    name="steps",
    title="Prompts, steps, and the cost of a map",
    source="LinEAS, Sections 4 and 5: data, steps and cost",
    model="smollm2",
    sizes=Sizes,
    measure=measure,
    write=write,
    draw=draw,
)
