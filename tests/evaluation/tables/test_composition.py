from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import lineas_core as lc
from lineas_core.diagnostics.copying import OPENINGS
from lineas_core.evaluation.cells import Bench
from lineas_core.evaluation.tables.composition import QUESTION, TABLE, Sizes, yes_log_odds
from lineas_core.methods.variants.refine import refine
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.perplexity import perplexity
from lineas_core.models.shared.catalog import CatalogEntry

SMALL = Sizes(concepts=("day", "night"), completions=8, tokens=6, refine_steps=1, judged=2)


@pytest.fixture(scope="module")
def quick(small_models: dict[str, Path]) -> lc.LanguageModel:
    """The small model with a catalogue entry, like the embedded model's, with few steps.

    It has one token per byte, so the judge's question needs a longer context than other texts.
    """
    tiny = lc.load_model(str(small_models["llama"]), device="cpu")
    tiny.module.config.max_position_embeddings = 1024
    entry = CatalogEntry(
        id=tiny.id,
        title="tiny",
        kind="language",
        dtype="float32",
        sites="post_layernorm",
        memory=0.1,
        license="none",
        train={"steps": 2, "rate": 0.5, "pooling": "last"},
    )
    return lc.LanguageModel(tiny.id, tiny.module, tiny.tokenizer, entry)


@pytest.fixture(scope="module")
def log() -> list[str]:
    return []


@pytest.fixture(scope="module")
def results(
    quick: lc.LanguageModel, log: list[str], tmp_path_factory: pytest.TempPathFactory
) -> pd.DataFrame:
    return TABLE.measure(Bench(quick, tmp_path_factory.mktemp("bench"), log.append), SMALL, [3])


def test_every_pair_is_measured_in_both_orders_but_refined_once(
    results: pd.DataFrame, log: list[str]
) -> None:
    alone = [("day", ""), ("night", "")]
    both_ways = [*alone, ("day", "night"), ("night", "day")]
    found = {
        method: list(group[["first", "second"]].itertuples(index=False, name=None))
        for method, group in results.groupby("method", sort=False)
    }
    assert found == {
        "unsteered": alone,
        "lin-act": both_ways,
        "lineas": both_ways,
        "lineas-sparse": both_ways,
        "lineas-refined": [("day", "night")],
        "lineas+": both_ways,
    }
    assert any(line.startswith("composition: 17 concepts and pairs") for line in log)


def test_presence_is_that_of_the_composed_model_s_texts(
    quick: lc.LanguageModel, results: pd.DataFrame
) -> None:
    config = lc.TrainConfig.for_model(quick, seed=3)
    sets = [lc.PromptSet.load(name) for name in ("night", "day")]
    maps = [lc.fit("lineas", quick, each, config) for each in sets]
    openings = [OPENINGS[i % 4] for i in range(8)]
    seeds = list(range(1024, 1032))

    def row(method: str, first: str, second: str) -> pd.Series:
        chosen = (results["first"] == first) & (results["second"] == second)
        return results[chosen & (results["method"] == method)].iloc[0]

    texts = quick.generate(openings, [(smap, 1.0) for smap in maps], seed=seeds, max_new_tokens=6)
    found = [concept_presence(texts, name) for name in ("night", "day")]
    measured = row("lineas", "night", "day")
    # A random model writes no real words, so compare the texts by their perplexity.
    assert measured["perplexity"] == pytest.approx(perplexity(quick, openings, texts))
    assert measured["presence_first"] == sum(found[0]) / 8
    assert measured["presence_second"] == sum(found[1]) / 8
    assert measured["presence_both"] == sum(a and b for a, b in zip(*found, strict=True)) / 8
    one = refine(
        quick,
        list(zip(maps[::-1], sets[::-1], strict=True)),
        lc.TrainConfig.for_model(quick, seed=3, steps=1, rate=SMALL.refine_rate),
    )
    texts = quick.generate(openings, [(one, 1.0)], seed=seeds, max_new_tokens=6)
    measured = row("lineas-refined", "day", "night")
    assert measured["perplexity"] == pytest.approx(perplexity(quick, openings, texts))


def test_the_judge_s_odds_are_those_of_the_answers(quick: lc.LanguageModel) -> None:
    (found,) = yes_log_odds(quick, ["The moon."], "night")
    asked = QUESTION.format(concept="night", text="The moon.")

    def score(answer: str) -> float:
        before = len(quick.tokenizer(asked)["input_ids"])
        ids = torch.tensor([quick.tokenizer(asked + answer)["input_ids"]])
        scores = quick.module(ids).logits[0].log_softmax(dim=-1)
        return sum(float(scores[i - 1, ids[0, i]]) for i in range(before, ids.shape[1]))

    # Tokens are bytes: the answers differ from the second byte on.
    assert found == pytest.approx(score(" Y") - score(" N"), abs=1e-4)
    with pytest.raises(lc.ConfigError, match="begin alike"):
        quick.log_odds(["Yes?"], "No", "Not")
    assert yes_log_odds(quick, [], "night") == []


def test_the_markdown_and_the_plot_hold_what_was_measured() -> None:
    def row(method: str, first: str, second: str, shares: tuple[float, ...]) -> dict[str, object]:
        names = ("presence_first", "presence_second", "presence_both", "judged_both")
        return {
            "method": method, "first": first, "second": second, "seed": 0, "perplexity": 12.0,
            "support": 0.25, **dict(zip(names, shares, strict=False)),
        }  # fmt: skip

    results = pd.DataFrame(
        [
            row("unsteered", "day", "", (0.1,)),
            row("lin-act", "day", "", (0.5,)),
            row("lin-act", "day", "night", (0.4, 0.2, 0.1, 0.2)),
            row("lineas", "day", "", (0.5,)),
            row("lineas", "night", "", (0.7,)),
            row("lineas", "day", "night", (0.5, 0.3, 0.2, 0.1)),
            row("lineas", "night", "day", (0.3, 0.5, 0.3, 0.3)),
        ]
    )
    text = TABLE.write(results)
    assert "| unsteered | 10% | - | - | - | - | - | 12.0 | 25% |" in text
    assert "| lin-act | 50% | 30% | 10% | - | 1.0 | 20% | 12.0 | 25% |" in text
    # Of 20 and 30 %: a standard deviation of 10 / sqrt(2), over sqrt(2).
    assert "| lineas | 60% | 40% | 25% | 5.0% | 2.5 | 20% | 12.0 | 25% |" in text
    assert "| day |  | 20% |" in text
    assert "| night | 30% |  |" in text
    figure = Figure()
    TABLE.draw(results, figure)
    heights = [bar.get_height() for bar in figure.axes[0].containers[-1]]
    assert heights == pytest.approx([0.6, 0.4, 0.25])


def test_methods_are_known(tiny: lc.LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(lc.ConfigError, match=r"methods holds 'lin-axt'.*lin-act.*lineas-sparse"):
        TABLE.measure(Bench(tiny, tmp_path), Sizes(methods=("lin-axt",)), [0])


def test_fewer_than_two_concepts_are_refused(tiny: lc.LanguageModel, tmp_path: Path) -> None:
    for concepts in (("day",), ("day", "day")):
        with pytest.raises(lc.ConfigError, match="two different ones or more"):
            TABLE.measure(Bench(tiny, tmp_path), Sizes(concepts=concepts), [0])
