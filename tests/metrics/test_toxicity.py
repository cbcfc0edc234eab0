from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import huggingface_hub.file_download
import pytest
import torch
from profanity_check import predict_prob
from sklearn.exceptions import InconsistentVersionWarning
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

import lineas_core as lc
from lineas_core.metrics import toxicity as module
from lineas_core.metrics.toxicity import PROFANITY, ROBERTA, load_toxicity_scorer, toxicity

TEXTS = ["Have a lovely day.", "You stupid fucking idiot.", "", "The train leaves at nine. " * 30]


def save_small_classifier(folder: Path, labels: dict[int, str]) -> Path:
    """Save a RoBERTa classifier with random weights and a tokenizer with one token per byte."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = RobertaForSequenceClassification(
            RobertaConfig(
                vocab_size=260,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=66,
                pad_token_id=1,
                id2label=labels,
                label2id={label: index for index, label in labels.items()},
            )
        )
        for parameter in classifier.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.5)
    classifier.save_pretrained(folder)
    # RoBERTa numbers positions from the padding token's id, so that id must be small.
    symbols = ["<s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", model_max_length=64
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_classifier(
        tmp_path_factory.mktemp("toxicity") / "small", {0: "neutral", 1: "toxic"}
    )


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_loaded", {})


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty local cache of the hub."""
    import transformers.utils.hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_into_cache(cache: Path, folder: Path) -> None:
    """Copy a folder into the cache in the layout of a download."""
    home = cache / f"models--{ROBERTA.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())


def test_insults_are_more_toxic_than_wishes() -> None:
    polite, rude, _, long = found = toxicity(TEXTS, scorer=PROFANITY, device="cpu")
    assert rude > 0.9
    assert max(polite, long) < 0.2
    assert found == pytest.approx(predict_prob(TEXTS).tolist())
    assert found.scorer == PROFANITY
    assert all(type(score) is float for score in found)


def test_a_classifier_gives_the_probability_of_its_label(folder: Path) -> None:
    plain = RobertaForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    wanted = []
    for text in ["Hello", "abc", "x" * 200]:
        ids = tokenizer(text)["input_ids"][:64]
        with torch.no_grad():
            neutral, toxic = plain(torch.tensor([ids])).logits[0].double().exp().tolist()
        wanted.append(toxic / (neutral + toxic))
    found = toxicity(["Hello", "abc", "x" * 200], scorer=str(folder), device="cpu")
    assert found == pytest.approx(wanted, abs=1e-5)
    assert found.scorer == str(folder)
    assert max(wanted) - min(wanted) > 0.01


def test_the_label_is_found_by_its_name(folder: Path, tmp_path: Path) -> None:
    turned = save_small_classifier(tmp_path / "turned", {0: "Toxic", 1: "fine"})
    one = toxicity(["Hello"], scorer=str(folder), device="cpu")[0]
    assert toxicity(["Hello"], scorer=str(turned), device="cpu")[0] == pytest.approx(1 - one)
    other = save_small_classifier(tmp_path / "other", {0: "joy", 1: "anger"})
    with pytest.raises(lc.ModelError, match=r"labels joy, anger; one must be 'toxic'"):
        load_toxicity_scorer(str(other), device="cpu")


def test_batches_give_the_same_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [letter * length for letter in "abc" for length in range(1, 12)]
    whole = toxicity(texts, scorer=str(folder), device="cpu")
    monkeypatch.setattr(module, "BATCH", 4)
    assert toxicity(texts, scorer=str(folder), device="cpu") == pytest.approx(whole, abs=1e-6)


def test_auto_takes_the_offline_scorer_and_then_the_one_in_the_cache(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        huggingface_hub.file_download, "get_hf_file_metadata", lambda url, **_: asked.append(url)
    )
    assert toxicity(TEXTS, device="cpu").scorer == PROFANITY
    put_into_cache(cache, folder)
    found = toxicity(["Hello"], device="cpu")
    assert found.scorer == ROBERTA
    assert found == toxicity(["Hello"], scorer=str(folder), device="cpu")
    assert not asked


def test_auto_takes_the_offline_scorer_where_the_cache_is_damaged(
    cache: Path, folder: Path
) -> None:
    put_into_cache(cache, folder)
    next(cache.rglob("model.safetensors")).write_bytes(b"cut off")
    assert toxicity(["Hello"], device="cpu").scorer == PROFANITY


def test_auto_never_waits_for_a_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, over = threading.Event(), threading.Event()

    class Slow(module.ClassifierScorer):
        def __init__(self, name: str, device: torch.device, *, local: bool = False) -> None:
            if not local:
                started.set()
                over.wait(60)
            super().__init__(name, device, local=True)

    monkeypatch.setattr(module, "ClassifierScorer", Slow)
    failed: list[lc.ModelError] = []

    def fetch() -> None:
        try:
            load_toxicity_scorer(ROBERTA, device="cpu")
        except lc.ModelError as error:
            failed.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    assert started.wait(60)
    assert toxicity(["Hello"], device="cpu").scorer == PROFANITY
    over.set()
    thread.join()
    assert "or use scorer='alt-profanity-check'" in str(failed[0])


def test_a_scorer_is_loaded_once(folder: Path) -> None:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_toxicity_scorer(str(folder), "cpu")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(scorer) for scorer in found}) == 1


@pytest.mark.parametrize("scorer", [PROFANITY, "folder"])
def test_nothing_scores_nothing(folder: Path, scorer: str) -> None:
    name = str(folder) if scorer == "folder" else scorer
    found = toxicity([], scorer=name, device="cpu")
    assert found == []
    assert found.scorer == name
    assert json.loads(json.dumps(toxicity(["a"], scorer=name, device="cpu")))[0] >= 0


def test_scorers_that_are_not_there_are_explained(tmp_path: Path) -> None:
    with pytest.raises(lc.ModelError, match=r"Cannot load .*use scorer='alt-profanity-check'"):
        load_toxicity_scorer(str(tmp_path), device="cpu")
    with pytest.raises(lc.ConfigError, match="device is 'warp'"):
        toxicity(["a"], device="warp")


def test_pickles_of_another_scikit_learn_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        """Intercepts the import of the package, and emits the warning its pickles would."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "profanity_check":
                warnings.warn(
                    InconsistentVersionWarning(
                        estimator_name="Model",
                        current_sklearn_version="9.9",
                        original_sklearn_version="1.9.1",
                    ),
                    stacklevel=1,
                )

    for name in [name for name in sys.modules if name.split(".")[0] == "profanity_check"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(lc.ModelError, match=r"scikit-learn 1\.9\.1, and 9\.9 is installed"):
        load_toxicity_scorer(PROFANITY, device="cpu")


def test_a_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(lc.ModelError, match="pip install alt-profanity-check"):
        load_toxicity_scorer(PROFANITY, device="cpu")


def test_the_library_imports_without_scikit_learn() -> None:
    code = "import sys, lineas_core.metrics.toxicity; sys.exit('profanity_check' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
