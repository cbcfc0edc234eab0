from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
import yaml

import lineas_core as lc
from lineas_core.evaluation.datasets import STANDINS
from lineas_core.evaluation.harness import (
    TRUTHFUL_EXAMPLES,
    evaluate_tasks,
    task_documents,
    true_mass,
)
from tests.helpers.models import random_map

MC1, MC2 = "standin_truthfulqa_mc1", "standin_truthfulqa_mc2"


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def long(small_models: dict[str, Path]) -> lc.LanguageModel:
    """A small model with a context long enough for the tasks; it uses rotary positions."""
    model = lc.load_model(str(small_models["llama"]), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    model.module.config.max_position_embeddings = 4096
    return model


@pytest.fixture
def strong(long: lc.LanguageModel) -> lc.SteeringMap:
    return random_map(dict.fromkeys(long.sites("post_layernorm"), 16), 3, spread=2.0)


def write_tasks(folder: Path) -> dict[str, str]:
    """Write task files with local data; returns name -> path."""
    rows = [
        {"q": f"{a} and {b}", "options": ["less", "more", "as much"], "right": (a * b) % 3}
        for a in range(4)
        for b in range(3)
    ]
    data = folder / "rows.json"
    data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    choice = {
        **shared,
        "task": "choice",
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}:",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm")],
    }
    rolling = {
        **shared,
        "task": "rolling",
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    }
    found = {}
    for name, config in (("choice", choice), ("rolling", rolling)):
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
        found[name] = str(file)
    return found


def test_unsteered_scores_are_those_of_the_harness(
    tiny: lc.LanguageModel, small_models: dict[str, Path], tmp_path: Path
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    files = list(write_tasks(tmp_path).values())
    state, padding = torch.get_rng_state(), tiny.tokenizer.pad_token
    ours = evaluate_tasks(tiny, [], files, num_fewshot=2, limit=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.tokenizer.pad_token == padding
    theirs = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(small_models["llama"]), "dtype": "float32"},
        tasks=files,
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=2,
        limit=8,
        device="cpu",
        batch_size=16,
        bootstrap_iters=0,
        log_samples=False,
    )["results"]
    for task, metrics in {"choice": ("acc", "acc_norm"), "rolling": ("byte_perplexity",)}.items():
        assert set(ours[task]) == set(metrics)
        for metric in metrics:
            assert ours[task][metric] == pytest.approx(theirs[task][f"{metric},none"], rel=1e-6)


def test_steered_scores_are_those_of_the_steered_module(
    long: lc.LanguageModel, strong: lc.SteeringMap, tmp_path: Path
) -> None:
    file = write_tasks(tmp_path)["rolling"]
    texts = [f"{a} and {b}" for a in range(4) for b in range(3)]
    nats = 0.0
    with lc.steer(long, [(strong, 0.6)]):
        for text in texts:
            ids = torch.tensor([[long.tokenizer.bos_token_id, *long.tokenizer(text)["input_ids"]]])
            predicted = long.module(ids).logits[0, :-1].log_softmax(-1)
            nats -= float(predicted.gather(1, ids[0, 1:, None]).sum())
    wanted = math.exp(nats / sum(map(len, texts)))
    steered = evaluate_tasks(long, [(strong, 0.6)], [file])["rolling"]["byte_perplexity"]
    assert steered == pytest.approx(wanted, rel=1e-4)
    plain = evaluate_tasks(long, [], [file])["rolling"]["byte_perplexity"]
    assert abs(plain / steered - 1) > 0.01


def test_mc1_and_mc2_of_the_standin_by_brute_force(
    long: lc.LanguageModel, strong: lc.SteeringMap
) -> None:
    asked = [4, 9, 30]
    documents = [task_documents(MC2)[i] for i in asked]
    right, mass = [], []
    with lc.steer(long, [(strong, 1.0)]):
        for document in documents:
            context = f"{TRUTHFUL_EXAMPLES}\n\nQ: {document['question']}\nA:"

            def likelihoods(name: str, document: dict = document, before: str = context) -> list:
                answers = [" " + choice for choice in document[name]["choices"]]
                losses = long.token_losses(answers, [before] * len(answers))
                return [-float(loss.double().sum()) for loss in losses]

            first = likelihoods("mc1_targets")
            right.append(first[0] == max(first))
            shares = np.exp(likelihoods("mc2_targets"))
            mass.append(shares[:2].sum() / shares.sum())
    found = evaluate_tasks(
        long, [(strong, 1.0)], [MC1, MC2], samples={MC1: asked, MC2: asked}, num_fewshot=5
    )
    assert found[MC1]["acc"] == pytest.approx(np.mean(right))
    assert found[MC2]["acc"] == pytest.approx(np.mean(mass), rel=1e-3)


def test_true_mass_is_the_harness_own() -> None:
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    draw = np.random.default_rng(0)
    for _ in range(50):
        labels = [1, 0, *draw.integers(0, 2, 4).tolist()]
        document = {"mc2_targets": {"labels": labels}}
        results = [(float(value), False) for value in draw.normal(-5, 3, 6)]
        wanted = process_results_mc2(document, results)["acc"]
        assert true_mass(document, results) == pytest.approx(wanted)


def test_five_worked_examples_come_before_each_question(long: lc.LanguageModel) -> None:
    seen: list[str] = []

    def look(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        seen.extend(long.tokenizer.batch_decode(ids))

    handle = long.module.register_forward_pre_hook(look, with_kwargs=True)
    try:
        evaluate_tasks(long, [], ["standin_mmlu"], limit=1, num_fewshot=5)
    finally:
        handle.remove()
    examples = [json.loads(line) for line in lines_of("multiple_choice_examples")]
    text = next(text for text in seen if "river Congo" in text)
    for example in examples:
        assert f"{example['question']}\nA. {example['choices'][0]}" in text
        assert f"D. {example['choices'][3]}\nAnswer: {'ABCD'[example['answer']]}\n" in text
    assert text.count("Answer:") == 6


def lines_of(name: str) -> list[str]:
    return (STANDINS / f"{name}.jsonl").read_text("utf-8").splitlines()


def test_standin_questions_are_sound() -> None:
    rows = [
        json.loads(line)
        for name in ("multiple_choice", "multiple_choice_examples")
        for line in lines_of(name)
    ]
    assert len({row["question"] for row in rows}) == 40
    assert all(len(set(row["choices"])) == 4 and 0 <= row["answer"] < 4 for row in rows)
    letters = [row["answer"] for row in rows[:35]]
    assert max(letters.count(letter) for letter in range(4)) <= 9
    truthful = [json.loads(line) for line in lines_of("truthfulness")]
    assert len({row["question"] for row in truthful}) == 40
    for row in truthful:
        one, several = row["mc1_targets"], row["mc2_targets"]
        assert one["labels"] == [1, 0, 0, 0]
        assert several["labels"] == [1, 1, 0, 0, 0]
        assert one["choices"] == several["choices"][:1] + several["choices"][2:]
        assert len(set(several["choices"])) == 5


def test_what_cannot_be_run_is_said(
    tiny: lc.LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lc.ConfigError, match="limit is 3 and samples are given"):
        evaluate_tasks(tiny, [], [MC1], limit=3, samples={MC1: [0]})
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    far = tmp_path / "far.yaml"
    far.write_text(
        yaml.safe_dump(
            {
                "task": "far",
                "dataset_path": "nobody-of-this-name/nothing",
                "test_split": "test",
                "output_type": "multiple_choice",
                "doc_to_text": "q",
                "doc_to_choice": ["a", "b"],
                "doc_to_target": 0,
            }
        ),
        "utf-8",
    )
    with pytest.raises(lc.ConfigError, match=r"far\.yaml.*cannot be loaded.*Hugging Face Hub"):
        evaluate_tasks(tiny, [], [str(far)])
    with pytest.raises(lc.ConfigError, match="one does not exist .*no-such-task"):
        evaluate_tasks(tiny, [], ["no-such-task"])


def test_a_missing_harness_is_named(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(lc.ConfigError, match=r"lm_eval is needed.*lineas-studio\[eval\]"):
        evaluate_tasks(tiny, [], [MC1])
