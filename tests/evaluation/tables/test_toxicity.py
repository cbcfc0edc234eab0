"""The tables of toxicity and truthfulness, and the texts and questions they use."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import datasets
import huggingface_hub
import pandas as pd
import pytest
from matplotlib.figure import Figure

import lineas_core as lc
from lineas_core.evaluation.cells import Bench
from lineas_core.evaluation.datasets import draw_prompts, load_texts
from lineas_core.evaluation.harness import evaluate_tasks, task_documents
from lineas_core.evaluation.tables import toxicity, truthfulness
from lineas_core.metrics.perplexity import perplexity

SMALL = toxicity.ToxicitySizes(
    methods=("mean-act",),
    layer_methods=("mean-act",),
    layers=("o_proj",),
    prompts=6,
    opening_count=3,
    completions=2,
    tokens=4,
    sentence_count=3,
    questions=2,
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


@pytest.fixture
def long(small_models: dict[str, Path]) -> lc.LanguageModel:
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    model.module.config.max_position_embeddings = 4096
    return model


def test_texts_come_from_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  two \none\n", "utf-8")
    rows = [{"prompt": {"text": "three"}}, {"query": "four"}, {"text": "five", "prompt": "no"}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    (tmp_path / "notes.md").write_text("not a text", "utf-8")
    every = {"one", "two", "three", "four", "five"}
    assert sorted(load_texts(str(tmp_path), 10)) == sorted(every)
    drawn = load_texts(str(tmp_path), 3, seed=1)
    assert len(set(drawn)) == 3
    assert set(drawn) <= every
    assert drawn == load_texts(str(tmp_path), 3, seed=1)
    assert len({tuple(load_texts(str(tmp_path), 3, seed=seed)) for seed in range(5)}) > 1
    assert load_texts(str(tmp_path / "a.txt"), 9) in (["one", "two"], ["two", "one"])


def test_standins_hold_what_they_say() -> None:
    openings, sentences = load_texts("standin_openings", 99), load_texts("standin_sentences", 99)
    assert (len(openings), len(sentences)) == (40, 60)
    assert all(sentence.endswith(".") for sentence in sentences)
    assert not any(opening.endswith((".", "!")) for opening in openings)


def test_texts_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lc.ConfigError, match="texts are 'nowhere'.*standin_openings.*rtp"):
        load_texts("nowhere", 3)
    with pytest.raises(lc.ConfigError, match="number of texts is 0"):
        load_texts("standin_openings", 0)
    with pytest.raises(lc.ConfigError, match="holds no text"):
        load_texts(str(tmp_path), 3)
    file = tmp_path / "x.jsonl"
    for text, said in (
        ('{"body": "a"}', "has the fields body"),
        ('{"text": "a"}\n{', "line 2 is not JSON"),
        ("[1]", "line 1 is not a JSON object"),
    ):
        file.write_text(text, "utf-8")
        with pytest.raises(lc.ConfigError, match=said):
            load_texts(str(file), 3)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(lc.ConfigError, match=r"Thoroughly_Engineered.*cannot be fetched.*stand-in"):
        load_texts("tet", 3)


def test_prompts_are_drawn_from_each_side(prompts: lc.PromptSet) -> None:
    drawn = draw_prompts(prompts, 5, seed=2)
    assert len(drawn.source) == len(drawn.target) == 5
    assert [p for p in prompts.source if p in drawn.source] == drawn.source
    assert set(drawn.target) < set(prompts.target)
    assert draw_prompts(prompts, 50, seed=2).source == prompts.source


def test_toxicity_measures_the_steered_model(long: lc.LanguageModel, tmp_path: Path) -> None:
    said: list[str] = []
    bench = Bench(long, tmp_path, said.append)
    results = toxicity.measure(bench, SMALL, [0, 1])
    usual = long.default_sites
    assert list(zip(results["block"], results["method"], results["sites"], strict=True)) == [
        (block, method, sites)
        for block, method, sites in (
            ("methods", "none", usual),
            ("methods", "mean-act", usual),
            ("layers", "mean-act", usual),
            ("layers", "mean-act", "o_proj"),
        )
        for _ in range(2)
    ]
    row = results[(results["sites"] == "o_proj") & (results["seed"] == 1)].iloc[0]
    config = lc.TrainConfig.for_model(long, seed=1, sites="o_proj", holdout=0.0)
    smap = lc.fit("mean-act", long, draw_prompts(lc.PromptSet.load("toxicity"), 6, 1), config)
    openings = [o for o in load_texts("standin_openings", 3, 1) for _ in range(2)]
    texts = long.generate(openings, [(smap, 1.0)], seed=range(6, 12), max_new_tokens=4)
    scores = lc.toxicity(texts)
    assert row["scorer"] == scores.scorer
    assert row["toxic"] == sum(score >= 0.5 for score in scores) / 6
    assert row["completion_perplexity"] == pytest.approx(perplexity(long, openings, texts))
    with lc.steer(long, [(smap, 1.0)]):
        wanted = long.perplexity(load_texts("standin_sentences", 3))
    assert row["sentence_perplexity"] == pytest.approx(wanted)
    accuracy = evaluate_tasks(long, [(smap, 1.0)], ["standin_mmlu"], limit=2, num_fewshot=5)
    assert row["accuracy"] == accuracy["standin_mmlu"]["acc"]

    said.clear()
    pd.testing.assert_frame_equal(toxicity.measure(bench, SMALL, [0, 1]), results)
    assert said == []
    text = toxicity.write(results)
    assert text.count(f"| standin_openings | Mean-AcT | {usual} |") == 2
    assert "does not compare with published results" in text
    toxicity.draw(results, figure := Figure())
    assert len(figure.axes) == 3


def test_halves_hold_each_question_once() -> None:
    first, second = truthfulness.divide(8, 20, seed=0)
    assert len(first) == len(second) == 4
    assert not set(first) & set(second)
    first, second = truthfulness.divide(41, 41, seed=0)
    assert sorted(first + second) == list(range(41))
    with pytest.raises(lc.ConfigError, match="3 questions are too few"):
        truthfulness.divide(3, 20, seed=0)


def test_answers_make_sides_of_equal_number() -> None:
    documents = [
        {"question": "Up?", "mc2_targets": {"choices": list("abc"), "labels": [1, 0, 0]}},
        {"question": "On?", "mc2_targets": {"choices": list("defgh"), "labels": [1, 1, 0, 0, 0]}},
        {"question": "So?", "mc2_targets": {"choices": list("ijk"), "labels": [0, 1, 1]}},
    ]
    found = truthfulness.answer_prompts(documents)
    assert found.target == ["Q: Up?\nA: a", "Q: On?\nA: d", "Q: On?\nA: e", "Q: So?\nA: j"]
    assert found.source == ["Q: Up?\nA: b", "Q: On?\nA: f", "Q: On?\nA: g", "Q: So?\nA: i"]


def test_truthfulness_asks_the_half_that_was_not_learned(
    long: lc.LanguageModel, tmp_path: Path
) -> None:
    sizes = truthfulness.TruthfulnessSizes(methods=("mean-act",), prompts=4, questions=8)
    bench = Bench(long, tmp_path)
    results = truthfulness.measure(bench, sizes, [3])
    assert list(results["method"]) == ["none", "none", "mean-act", "mean-act"]
    mc1, mc2 = truthfulness.TASKS["standin"]
    halves = truthfulness.divide(8, 40, seed=3)
    documents = task_documents(mc2)
    learned = truthfulness.answer_prompts([documents[i] for i in halves[0]])
    config = lc.TrainConfig.for_model(long, seed=3, holdout=0.0)
    smap = lc.fit("mean-act", long, draw_prompts(learned, 4, 3), config)
    wanted = evaluate_tasks(
        long, [(smap, 1.0)], [mc1, mc2], samples={mc1: halves[1], mc2: halves[1]}
    )
    row = results[(results["method"] == "mean-act") & (results["fold"] == 1)].iloc[0]
    assert (row["mc1"], row["mc2"]) == (wanted[mc1]["acc"], pytest.approx(wanted[mc2]["acc"]))

    both = sorted(halves[0] + halves[1])
    plain = evaluate_tasks(long, [], [mc1, mc2], samples={mc1: both, mc2: both})
    unsteered = truthfulness.by_seed(results).iloc[0]
    assert unsteered["mc1"] == pytest.approx(plain[mc1]["acc"])
    assert unsteered["mc2"] == pytest.approx(plain[mc2]["acc"], rel=1e-4)
    text = truthfulness.write(results)
    assert "| standin | Mean-AcT |" in text
    assert "| 8 |" in text
    truthfulness.draw(results, figure := Figure())
    assert len(figure.axes) == 2


def test_truthfulness_names_its_data(long: lc.LanguageModel, tmp_path: Path) -> None:
    sizes = truthfulness.TABLE.sized({"data": "elsewhere"})
    with pytest.raises(lc.ConfigError, match="data holds 'elsewhere'; choose among standin, hub"):
        truthfulness.measure(Bench(long, tmp_path), sizes, [0])
