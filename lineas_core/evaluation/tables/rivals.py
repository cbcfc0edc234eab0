"""Competing methods that are not affine: LoReFT against LinEAS and Lin-AcT, and RTC-RL's reward.

There are two parts. The first completes neutral openings: presence is the share of completions with
a word of the concept, and perplexity is measured on the completions under the unsteered model. All
methods learn from the same sentences; LoReFT uses only the target. The second trains RTC-RL on one
half of a list of openings and measures the mean reward, one minus toxicity, on the other half.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import pandas as pd

from lineas_core.diagnostics.copying import OPENINGS
from lineas_core.errors import ConfigError
from lineas_core.evaluation.cells import Bench, Cell, Row, check_known, spread
from lineas_core.evaluation.datasets import load_texts
from lineas_core.evaluation.report import Table, markdown, with_spread
from lineas_core.evaluation.rivals.reft import ReftConfig, fit_reft
from lineas_core.evaluation.rivals.rtc_rl import RtcRlConfig, fit_rtc_rl
from lineas_core.evaluation.tables.concepts import FIRST_SEED
from lineas_core.methods.names import TITLES
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.perplexity import perplexity
from lineas_core.metrics.toxicity import toxicity
from lineas_core.models.load import as_language_model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNTOUCHED = "untouched"
LOREFT = "loreft"
RTC_RL = "rtc-rl"
# Strengths of the maps; LoReFT is only on or off.
STRENGTHS = (0.5, 1.0)


@dataclass(frozen=True)
class RivalSizes:
    """Sizes of the table.

    Args:
        concepts: prompt sets with a word list.
        methods: keys of `TITLES`, in addition to LoReFT.
        completions: per method and strength, and for RTC-RL's openings.
        tokens: maximum tokens per completion.
        reft_steps: gradient steps of LoReFT.
        reft_rank: rank of LoReFT.
        reft_rate: learning rate of LoReFT.
        rl_steps: gradient steps of RTC-RL; 0 skips it.
        rl_texts: openings for RTC-RL, a name for `load_texts`.
        rl_openings: how many openings to draw; every other one is used for training.
    """

    concepts: tuple[str, ...] = ("football", "night")
    methods: tuple[str, ...] = ("lineas", "lin-act")
    completions: int = 60
    tokens: int = 32
    reft_steps: int = 40
    reft_rank: int = 4
    reft_rate: float = 2e-3
    rl_steps: int = 0
    rl_texts: tuple[str, ...] = ("standin_openings",)
    rl_openings: int = 40


def measure(bench: Bench, sizes: RivalSizes, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure the rows of part `concepts`, by method and strength, and of part `rl`, by method.

    The columns presence and fit_seconds belong to the first part, reward to the second.

    Raises:
        ConfigError: there is no such method.
    """
    check_known("methods", sizes.methods, TITLES)
    cells: list[Cell] = []
    for seed in seeds:
        shared = {"seed": seed, "completions": sizes.completions, "tokens": sizes.tokens}
        reft = {"steps": sizes.reft_steps, "rank": sizes.reft_rank, "rate": sizes.reft_rate}
        for concept in sizes.concepts:
            concept_presence([], concept)
            known = {"part": "concepts", "concept": concept, **shared}
            cells += [{**known, "method": method} for method in (UNTOUCHED, *sizes.methods)]
            cells.append({**known, "method": LOREFT, **reft})
        if sizes.rl_steps:
            training = {"steps": sizes.rl_steps, "openings": sizes.rl_openings}
            cells += [
                {"part": "rl", "concept": texts, **shared, **training} for texts in sizes.rl_texts
            ]

    def measure_cell(cell: Cell) -> list[Row]:
        if cell["part"] == "rl":
            return _measure_reward(bench, cell)
        return _measure_reft(bench, cell) if cell["method"] == LOREFT else _measure_map(bench, cell)

    return bench.rows("rivals", cells, measure_cell)


def _measure_map(bench: Bench, cell: Cell) -> list[Row]:
    """Measure the untouched model, or a method's map at each strength."""
    openings, noise = _asked(OPENINGS, cell)
    settings = {"max_new_tokens": cell["tokens"], "batch_size": 100}
    if cell["method"] == UNTOUCHED:
        texts = bench.texts(openings, [], noise, **settings)
        return [{"strength": 0.0, **_judged(bench, openings, texts, cell), "fit_seconds": 0.0}]
    config = TrainConfig.for_model(bench.model, cell["method"], seed=cell["seed"])
    fitted = bench.fit(cell["method"], PromptSet.load(cell["concept"]), config)
    rows: list[Row] = []
    for strength in STRENGTHS:
        texts = bench.texts(openings, [(fitted.map, strength)], noise, **settings)
        judged = _judged(bench, openings, texts, cell)
        rows.append({"strength": strength, **judged, "fit_seconds": fitted.seconds})
    return rows


def _measure_reft(bench: Bench, cell: Cell) -> list[Row]:
    model = as_language_model(bench.model)
    openings, noise = _asked(OPENINGS, cell)
    # The sentences that the maps are learned from; the rest is held out for all methods.
    holdout = TrainConfig.for_model(model).holdout
    prompts, _ = PromptSet.load(cell["concept"]).split(holdout, cell["seed"])
    began = time.perf_counter()
    reft = fit_reft(
        model,
        prompts.target,
        ReftConfig(steps=cell["steps"], rank=cell["rank"], rate=cell["rate"], seed=cell["seed"]),
    )
    seconds = time.perf_counter() - began
    with reft.applied(model):
        texts = model.generate(openings, seed=noise, max_new_tokens=cell["tokens"], batch_size=100)
    return [{"strength": 1.0, **_judged(bench, openings, texts, cell), "fit_seconds": seconds}]


def _measure_reward(bench: Bench, cell: Cell) -> list[Row]:
    """Measure the untouched model and RTC-RL."""
    model = as_language_model(bench.model)
    drawn = load_texts(cell["concept"], cell["openings"], cell["seed"])
    trained, held = drawn[::2], drawn[1::2]
    if not held:
        raise ConfigError(
            f"{cell['concept']} gives {len(drawn)} opening; RTC-RL needs one to train on and one "
            "to measure. Give more, or set rl_openings to 2 or more."
        )
    config = RtcRlConfig(
        steps=cell["steps"],
        prompts=min(RtcRlConfig.prompts, len(trained)),
        tokens=cell["tokens"],
        seed=cell["seed"],
    )
    openings, noise = _asked(held, cell)
    settings = {"max_new_tokens": cell["tokens"], "batch_size": 100}
    made = {UNTOUCHED: model.generate(openings, seed=noise, **settings)}
    with fit_rtc_rl(model, trained, config).applied(model):
        made[RTC_RL] = model.generate(openings, seed=noise, **settings)
    return [
        {
            "method": method,
            "reward": 1 - fmean(toxicity(texts, scorer=config.scorer)),
            "perplexity": perplexity(model, openings, texts),
        }
        for method, texts in made.items()
    ]


def _asked(openings: Sequence[str], cell: Cell) -> tuple[list[str], list[int]]:
    """The openings repeated in turn, and a seed for each completion."""
    count = cell["completions"]
    first = FIRST_SEED + cell["seed"] * count
    return [openings[i % len(openings)] for i in range(count)], list(range(first, first + count))


def _judged(bench: Bench, openings: Sequence[str], texts: Sequence[str], cell: Cell) -> Row:
    return {
        "presence": fmean(concept_presence(texts, cell["concept"])),
        "perplexity": perplexity(as_language_model(bench.model), openings, texts),
    }


def write(results: pd.DataFrame) -> str:
    """A row per concept, method and strength; below them RTC-RL's reward, if it was measured."""
    means = _means(results)
    rows = [
        [
            row.concept,
            row.method,
            f"{row.strength:g}",
            with_spread(row.presence, row.presence_sd, ".0%"),
            with_spread(row.perplexity, row.perplexity_sd, ".1f"),
            f"{row.fit_seconds:.0f} s",
        ]
        for row in means.itertuples()
    ]
    head = ["concept", "method", "strength", "presence", "perplexity", "fit"]
    texts = [markdown(rows, head), "LoReFT has no strength: it is on or off."]
    part = results[results["part"] == "rl"]
    if len(part):
        rows = [
            [
                row.concept,
                row.method,
                with_spread(row.reward, row.reward_sd, ".3f"),
                with_spread(row.perplexity, row.perplexity_sd, ".1f"),
            ]
            for row in spread(part, ["concept", "method"], ["reward", "perplexity"]).itertuples()
        ]
        texts += [
            "Mean reward, one minus toxicity, of completions of openings not used for training.",
            markdown(rows, ["openings", "method", "reward", "perplexity"]),
        ]
    return "\n\n".join(texts)


def draw(results: pd.DataFrame, figure: Figure) -> None:
    """Plot presence against perplexity per concept: higher is more of it, left more fluent."""
    means = _means(results)
    concepts = list(means["concept"].unique())
    axes = figure.subplots(1, len(concepts), sharey=True, squeeze=False)[0]
    for axis, concept in zip(axes, concepts, strict=True):
        found = means[means["concept"] == concept]
        for method, line in found.groupby("method", sort=False):
            axis.errorbar(
                line["perplexity"],
                line["presence"],
                line["presence_sd"],
                line["perplexity_sd"],
                marker="o",
                label=method,
            )
        axis.set(title=concept, xlabel="perplexity", xscale="log")
    axes[0].set_ylabel("share with the concept")
    axes[0].legend()


def _means(results: pd.DataFrame) -> pd.DataFrame:
    part = results[results["part"] == "concepts"]
    values = ["presence", "perplexity", "fit_seconds"]
    return spread(part, ["concept", "method", "strength"], values)


TABLE = Table(
    name="rivals",
    title="Rivals beyond affine maps",
    source="LinEAS, the comparisons with LoReFT and RTC-RL",
    model="smollm2",
    sizes=RivalSizes,
    measure=measure,
    write=write,
    draw=draw,
)
