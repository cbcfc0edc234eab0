"""Presence of concepts that have no published list: their words, and the model's judgement."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

import lineas_core as lc
from lineas_core.errors import ConfigError
from lineas_core.metrics.judge import Judge, telling
from lineas_core.metrics.own_words import TELLING, everyday_share, own_words, words_presence
from lineas_core.models.language.model import LanguageModel
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.answers.own_concepts import OwnConcept, as_field, own_concepts
from lineas_core.studio.answers.readouts import read_out
from lineas_core.studio.storage.store import MapRow
from lineas_core.studio.views import completions

LAVA = PromptSet(
    name="lava",
    concept="volcanoes",
    source=["She sat there and read a book.", "The old bus was late.", "He opened the window."] * 2,
    target=["The lava was hot there.", "Red lava ran over the old road.", "Ash fell.", "The ash."],
)


@pytest.fixture(scope="module")
def roomy(small_models, tmp_path_factory) -> LanguageModel:
    """A small random model that reads enough for a question."""
    folder = tmp_path_factory.mktemp("roomy") / "llama"
    shutil.copytree(small_models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    return lc.load_model(str(folder), device="cpu")


def row(prompts: PromptSet | None, concept: str) -> MapRow:
    return MapRow("m", "o", "t", "m", "text", "d", 0.1, concept=concept, prompts=prompts)


def test_words_of_the_target_are_its_own_and_function_words_are_not() -> None:
    found = own_words(LAVA.source, LAVA.target, "volcanoes")
    assert found == ("volcanoes", "lava")
    assert "lava" not in own_words(LAVA.target, LAVA.source)
    assert words_presence(["A VOLCANO.", "Lavas", "lavender", ""], found) == [
        True, True, False, False,
    ]  # fmt: skip


def test_shipped_sets_give_words_that_tell_their_sides_apart() -> None:
    for name in ("fishing", "elephant"):
        prompts = PromptSet.load(name)
        found = own_words(prompts.source, prompts.target, prompts.concept)
        assert sum(words_presence(prompts.target, found)) >= 0.9 * len(prompts.target)
        assert sum(words_presence(prompts.source, found)) <= 0.1 * len(prompts.source)
        alone = own_words(prompts.source, prompts.target, prompts.concept, TELLING)
        assert set(alone) < set(found)
        assert max(everyday_share(word) for word in set(found) - set(alone)) > 0.01
        assert sum(words_presence(prompts.target, alone)) >= 0.9 * len(prompts.target)


def test_a_text_tells_by_the_tokens_that_become_likelier_behind_the_targets(
    roomy: LanguageModel,
) -> None:
    text = "Red lava ran over the bench."
    losses = []
    for side in (LAVA.target, LAVA.source):
        lead = "".join(f"- {line}\n" for line in side) + "-"
        read = [roomy.tokenizer(part)["input_ids"] for part in (lead, f" {text}")]
        ids = torch.tensor([read[0] + read[1]])
        with torch.no_grad():
            logits = roomy.module(ids).logits[0].float()
        each = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        losses.append(each[-(len(read[1]) - 1) :])
    gains = sorted((losses[1] - losses[0]).tolist())
    (found, nothing) = telling(roomy, [text, ""], LAVA.target, LAVA.source)
    assert found == pytest.approx(sum(gains[-2:]) / 2, rel=1e-3, abs=1e-4)
    assert nothing == 0


def test_the_judge_finds_three_in_four_of_the_texts_that_it_is_calibrated_on(
    roomy: LanguageModel,
) -> None:
    prompts = PromptSet.load("fishing")
    judge = Judge.of(roomy, prompts)
    assert not set(judge.target) & set(judge.source)
    assert len(judge.target) == len(judge.source) == 8
    scores = judge.presence(roomy, ["The old man fished.", ""])
    telt = telling(roomy, ["The old man fished."], judge.target, judge.source)
    assert scores[0] == pytest.approx(1 / (1 + math.exp(judge.limit - telt[0])))
    assert 0.375 <= judge.right <= 0.875


def test_edited_words_take_the_place_of_the_prompts() -> None:
    rows = [row(LAVA, "volcanoes"), row(None, "chess"), row(LAVA, "football")]
    (plain,) = own_concepts(rows)
    assert plain.words == ("volcanoes", "lava")
    assert own_concepts(rows, as_field([plain])) == (plain,)
    (edited,) = own_concepts(rows, "Volcanoes: Magma, ,ash cloud\nother: x")
    assert edited.words == ("magma", "ash cloud")
    with pytest.raises(ConfigError, match="has no colon"):
        own_concepts(rows, "magma, ash")


def test_both_figures_are_shown_and_labelled(tiny: LanguageModel) -> None:
    own = [OwnConcept("<vol>", ("lava",), LAVA)]
    figures = read_out(tiny, "ab", ["Hot lava.", "A bus."], [], own)
    assert (figures.own[0].worded, figures.own[0].texts) == (1, 2)
    shown = completions.readout(figures)
    assert "&lt;vol&gt; by words <b>1 of 2</b>" in shown
    assert "by the model <b>not judged</b>" in shown
    assert completions.mark("hot lava & ash", [], own) == "hot <mark>lava</mark> &amp; ash"
