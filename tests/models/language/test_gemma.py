"""Gemma 3 270M from PyPI, whose terms whoever runs the slow tests accepts."""

from __future__ import annotations

import pytest

import lineas_core as lc
from lineas_core.errors import ModelError
from lineas_core.evaluation.tables.concepts import OPENINGS
from lineas_core.metrics.concepts import concept_presence
from lineas_core.metrics.perplexity import perplexity
from lineas_core.models.load import fetch_model
from lineas_core.models.shared.catalog import catalog
from lineas_core.system.home import lineas_home

pytestmark = pytest.mark.slow

NAME = "gemma-3-270m"
COUNT, TOKENS = 32, 40


@pytest.fixture(scope="module")
def gemma() -> lc.LanguageModel:
    """The model, fetched into LINEAS_HOME on first use."""
    try:
        fetch_model(catalog()[NAME], lineas_home(), lambda terms: True)
    except ModelError as error:
        if "cannot be fetched" in str(error):
            pytest.skip(str(error))
        raise
    model = lc.load_model(NAME, device="cpu")
    assert isinstance(model, lc.LanguageModel)
    return model


def test_it_is_the_whole_model_and_writes_english(gemma: lc.LanguageModel) -> None:
    assert type(gemma.module).__name__ == "Gemma3ForCausalLM"
    assert gemma.module.config.num_hidden_layers == 18
    assert gemma.module.config.hidden_size == 640
    # A norm after attention and one after the MLP in each layer.
    assert len(gemma.sites("post_layernorm")) == 36
    assert gemma.tokenizer("a").input_ids[0] == gemma.tokenizer.bos_token_id
    known = {"The Eiffel Tower is in the city of": " Paris", "Monday, Tuesday,": " Wednesday"}
    texts = gemma.generate(list(known), temperature=0, max_new_tokens=3)
    assert all(text.startswith(end) for text, end in zip(texts, known.values(), strict=True)), texts


def test_it_learns_football_with_the_catalogues_settings(gemma: lc.LanguageModel) -> None:
    smap = lc.train(gemma, lc.PromptSet.load("football")).map
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(COUNT)]
    shares, fluencies = [], []
    for strength in (0.0, 0.5, 1.0):
        texts = gemma.generate(
            openings, [(smap, strength)], seed=list(range(COUNT)), max_new_tokens=TOKENS
        )
        shares.append(sum(concept_presence(texts, "football")) / COUNT)
        fluencies.append(perplexity(gemma, openings, texts))
    assert shares[0] < 0.15
    assert shares[1] > shares[0] + 0.3
    assert fluencies[1] < 2 * fluencies[0]
