"""How much each method's map raises the probability of true answers.

The questions are split into two halves. A map is learned from the false to the true answers of
one half, each after its question, and the model is evaluated on the other half with the map at
strength 1; then the halves are swapped. MC1 is the share of questions whose one true answer is
likelier than all false ones, MC2 the true answers' share of the probability of all answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from lineas_core.errors import ConfigError
from lineas_core.evaluation.cells import Bench, Cell, Row, check_known, spread
from lineas_core.evaluation.datasets import draw_prompts
from lineas_core.evaluation.harness import evaluate_tasks, task_documents
from lineas_core.evaluation.report import Table, markdown, with_spread
from lineas_core.methods.names import TITLES
from lineas_core.models.load import as_language_model
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNSTEERED = "none"
STRENGTH = 1.0
# Data -> the harness's tasks for MC1 and MC2, which have the same questions.
TASKS: Mapping[str, tuple[str, str]] = {
    "standin": ("standin_truthfulqa_mc1", "standin_truthfulqa_mc2"),
    "hub": ("truthfulqa_mc1", "truthfulqa_mc2"),
}
SCORES = ("mc1", "mc2")


@dataclass(frozen=True)
class TruthfulnessSizes:
    """Sizes of the table.

    Args:
        methods: keys of `TITLES`.
        data: standin (our own questions), or hub (TruthfulQA).
        prompts: maximum answers per side that a map is learned from; drawn for each seed.
        questions: maximum questions used; 0 means all.
    """

    methods: tuple[str, ...] = ("lin-act", "lineas", "iti-c")
    data: tuple[str, ...] = ("standin",)
    prompts: int = 32
    questions: int = 0


def measure(bench: Bench, sizes: TruthfulnessSizes, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure a row per data, method, fold and seed (of the folds, drawn answers, and the map).

    Raises:
        ConfigError: there is no such method or data.
    """
    check_known("methods", sizes.methods, TITLES)
    check_known("data", sizes.data, TASKS)
    cells = [
        {
            "data": data,
            "method": method,
            "fold": fold,
            "seed": seed,
            "prompts": sizes.prompts,
            "limit": sizes.questions,
        }
        for data in sizes.data
        for seed in seeds
        for method in (UNSTEERED, *sizes.methods)
        for fold in (0, 1)
    ]
    return bench.rows("truthfulness", cells, lambda cell: [_measure_cell(bench, cell)])


def _measure_cell(bench: Bench, cell: Cell) -> Row:
    tasks = TASKS[cell["data"]]
    documents = task_documents(tasks[1])
    halves = divide(cell["limit"] or len(documents), len(documents), cell["seed"])
    asked, learned = halves[cell["fold"]], halves[1 - cell["fold"]]
    maps, seconds = [], 0.0
    if cell["method"] != UNSTEERED:
        answers = answer_prompts([documents[i] for i in learned])
        config = TrainConfig.for_model(bench.model, cell["method"], seed=cell["seed"], holdout=0.0)
        drawn = draw_prompts(answers, cell["prompts"], cell["seed"])
        fitted = bench.fit(cell["method"], drawn, config)
        maps, seconds = [(fitted.map, STRENGTH)], fitted.seconds
    scores = evaluate_tasks(
        as_language_model(bench.model), maps, tasks, samples=dict.fromkeys(tasks, asked)
    )
    found = {name: scores[task]["acc"] for name, task in zip(SCORES, tasks, strict=True)}
    return {**found, "questions": len(asked), "fit_seconds": seconds}


def divide(count: int, available: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of two disjoint halves of at most `count` out of `available` questions.

    Raises:
        ConfigError: a half would have fewer than two questions.
    """
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    if len(order) < 4:
        raise ConfigError(f"{len(order)} questions are too few for two halves; use 4 or more.")
    middle = len(order) // 2
    return sorted(order[:middle].tolist()), sorted(order[middle:].tolist())


def answer_prompts(documents: Sequence[Mapping[str, Any]]) -> PromptSet:
    """False answers as source and equally many true ones as target, each after its question.

    Args:
        documents: have `question`, and `mc2_targets` with `choices` and `labels`, as in TruthfulQA.
    """
    sides: tuple[list[str], list[str]] = ([], [])
    for document in documents:
        targets = document["mc2_targets"]
        answers: tuple[list[str], list[str]] = ([], [])
        for choice, label in zip(targets["choices"], targets["labels"], strict=True):
            answers[int(label)].append(f"Q: {document['question']}\nA: {choice}")
        pairs = min(map(len, answers))
        for side, given in zip(sides, answers, strict=True):
            side += given[:pairs]
    return PromptSet(name="truthful-answers", source=sides[0], target=sides[1], concept="true")


def by_seed(results: pd.DataFrame) -> pd.DataFrame:
    """Average the two folds of each seed, weighted by their number of questions."""
    weighted = results.assign(**{s: results[s] * results["questions"] for s in SCORES})
    summed = weighted.groupby(["data", "method", "seed"], sort=False)[[*SCORES, "questions"]].sum()
    return summed.assign(**{s: summed[s] / summed["questions"] for s in SCORES}).reset_index()


def write(results: pd.DataFrame) -> str:
    """A row per data and method."""
    means = spread(by_seed(results), ["data", "method"], [*SCORES, "questions"])
    rows = [
        [
            row["data"],
            TITLES.get(row["method"], row["method"]),
            *(with_spread(row[s], row[f"{s}_sd"], ".1%") for s in SCORES),
            int(row["questions"]),
        ]
        for row in means.to_dict("records")
    ]
    return markdown(rows, ["data", "method", *map(str.upper, SCORES), "questions"]) + (
        f"\n\nStrength {STRENGTH:g}, {results['prompts'].iloc[0]} answers a side at most; two "
        "folds, each asked with the map of the other. The data called standin is a short list of "
        "our own writing and does not compare with published results."
    )


def draw(results: pd.DataFrame, figure: Figure) -> None:
    """Draw bars of MC1 and MC2 for each method and data."""
    found = by_seed(results)
    labels = [
        f"{TITLES.get(method, method)}, {data}"
        for method, data in zip(found["method"], found["data"], strict=True)
    ]
    means = spread(found.assign(label=labels), ["label"], list(SCORES)).iloc[::-1]
    for axes, score in zip(figure.subplots(1, 2, sharey=True), SCORES, strict=True):
        axes.barh(means["label"], means[score], xerr=means[f"{score}_sd"])
        axes.set_xlabel(score.upper())


TABLE = Table(
    name="truthfulness",
    title="Truthfulness",
    source="LinEAS, Table 7",
    model="smollm2",
    sizes=TruthfulnessSizes,
    measure=measure,
    write=write,
    draw=draw,
)
