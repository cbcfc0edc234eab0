"""Toxicity: the probability that a reader finds a text rude or hateful."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lineas_core.errors import ModelError
from lineas_core.metrics.clip import Scores
from lineas_core.models.shared.foreign_files import check_files
from lineas_core.models.shared.loading import loading
from lineas_core.system.devices import choose_device

PROFANITY = "alt-profanity-check"
ROBERTA = "s-nlp/roberta_toxicity_classifier"
TOXIC_LABEL = "toxic"
BATCH = 32
# Maximum length that the classifier was trained on; longer texts are truncated.
MAX_TOKENS = 512


class ProfanityScorer:
    """alt-profanity-check: a linear classifier on words, which needs no network and no GPU.

    It detects swear words and insults rather than meaning: hate in clean words scores low.

    Raises:
        ModelError: the package is missing, or scikit-learn is not the version it was made with.
    """

    name = PROFANITY

    def __init__(self) -> None:
        remedy = "Install it with `pip install alt-profanity-check==1.9.1`"
        try:
            # scikit-learn takes about two seconds to import, and only this needs it.
            from sklearn.exceptions import (
                InconsistentVersionWarning,
            )

            with warnings.catch_warnings():
                # Its pickles come from another scikit-learn version: the scores may be wrong.
                warnings.simplefilter("error", InconsistentVersionWarning)
                from profanity_check import predict_prob
                from profanity_check.profanity_check import vectorizer
        except ImportError as error:
            raise ModelError(f"Cannot load the scorer {PROFANITY} ({error}). {remedy}.") from error
        except InconsistentVersionWarning as error:
            raise ModelError(
                f"The scorer {PROFANITY} was made with scikit-learn "
                f"{error.original_sklearn_version}, and {error.current_sklearn_version} is "
                f"installed. {remedy}, which brings the right one."
            ) from error
        self._predict: Any = predict_prob
        # All words that have a weight; it knows no other.
        self.words: tuple[str, ...] = tuple(sorted(vectorizer.vocabulary_))

    def score(self, texts: Sequence[str]) -> Scores:
        """One probability per text, in order."""
        found = self._predict(list(texts)).tolist() if texts else []
        return Scores(found, self.name)


class ClassifierScorer:
    """A transformers sequence classifier with a label "toxic".

    Args:
        name: a hub id, or a folder.
        device: where to run.
        local: load local files only, without the network.

    Raises:
        ModelError: it cannot be found, or has no such label.
    """

    def __init__(self, name: str, device: torch.device, *, local: bool = False) -> None:
        self.name = name
        with loading(name, device, f"use scorer={PROFANITY!r}"):
            revision = check_files(name, name, local=local)
            self._tokenizer = AutoTokenizer.from_pretrained(
                name, revision=revision, local_files_only=local, trust_remote_code=False
            )
            model = AutoModelForSequenceClassification.from_pretrained(
                name,
                revision=revision,
                local_files_only=local,
                # With PEFT installed, adapters are looked up too, regardless of the setting above.
                adapter_kwargs={"local_files_only": local},
                use_safetensors=True,
                trust_remote_code=False,
            )
            self._model: Any = model.eval().requires_grad_(False).to(device)
        labels = {label.lower(): index for index, label in model.config.id2label.items()}
        if TOXIC_LABEL not in labels:
            raise ModelError(
                f"The scorer {name} has the labels {', '.join(labels)}; one must be "
                f"{TOXIC_LABEL!r}. Choose {ROBERTA} or {PROFANITY}."
            )
        self._toxic = labels[TOXIC_LABEL]

    @torch.no_grad()
    def score(self, texts: Sequence[str]) -> Scores:
        """One probability per text, in order; computed in batches of `BATCH`."""
        found: list[float] = []
        for start in range(0, len(texts), BATCH):
            batch = self._tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=min(MAX_TOKENS, self._tokenizer.model_max_length),
                return_tensors="pt",
            ).to(self._model.device)
            logits = self._model(**batch).logits.float()
            found += logits.softmax(dim=-1)[:, self._toxic].tolist()
        return Scores(found, self.name)


ToxicityScorer = ProfanityScorer | ClassifierScorer


def toxicity(texts: Sequence[str], *, scorer: str = "auto", device: str = "auto") -> Scores:
    """The probability that each text is toxic.

    Args:
        texts: any number; an empty text gets whatever score the scorer gives it.
        scorer: see `load_toxicity_scorer`.
        device: see `load_toxicity_scorer`.

    Returns:
        A list of floats in [0, 1] in the order of `texts`, with the scorer's name in `scorer`.
        Scores from different scorers are not comparable.

    Raises:
        ConfigError: there is no such device.
        ModelError: the scorer cannot be loaded.
    """
    return load_toxicity_scorer(scorer, device).score(texts)


def load_toxicity_scorer(name: str = "auto", device: str = "auto") -> ToxicityScorer:
    """Return the named scorer: loaded on the first call, the same object afterwards.

    Args:
        name: alt-profanity-check (offline); the hub id or folder of a classifier, such as
            s-nlp/roberta_toxicity_classifier (the papers' scorer); or auto, which never waits for
            the network: it uses the papers' scorer if that is already loaded or in the local
            cache, otherwise alt-profanity-check. A server with a GPU loads the papers' scorer by
            name, in a thread at startup, and auto uses it from then on.
        device: for a classifier. "auto" picks a GPU if there is one; otherwise a torch device name.

    Raises:
        ConfigError: there is no such device.
        ModelError: the scorer cannot be loaded; the message says what to do.
    """
    chosen = choose_device(device)
    if name == "auto":
        try:
            return _remembered(ROBERTA, chosen, local=True)
        except ModelError:
            name = PROFANITY
    return _remembered(name, chosen, local=False)


_loaded: dict[tuple[str, torch.device], ToxicityScorer] = {}
_locks: dict[tuple[str, torch.device, bool], threading.Lock] = {}


def _remembered(name: str, device: torch.device, *, local: bool) -> ToxicityScorer:
    # Separate locks, so that a local load never waits for one that uses the network.
    with _locks.setdefault((name, device, local), threading.Lock()):
        if (name, device) not in _loaded:
            made = (
                ProfanityScorer()
                if name == PROFANITY
                else ClassifierScorer(name, device, local=local)
            )
            _loaded.setdefault((name, device), made)
        return _loaded[name, device]
