"""The prompt writer: arithmetic on a small random model, sentences on the embedded one."""

import json
import re
import shutil
from itertools import count as counting
from itertools import pairwise

import pytest
import torch
import typer
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.write import register
from lineas_core.errors import ConfigError, PromptError
from lineas_core.models.language.continuation import Continuer
from lineas_core.prompts.checks import first_like, line_issues
from lineas_core.prompts.filters import any_form, sentence_flaw
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.prompts.writing.candidates import Draft
from lineas_core.prompts.writing.writer import write_image_prompts, write_text_prompts


@pytest.fixture(scope="module")
def roomy(small_models, tmp_path_factory) -> lc.LanguageModel:
    """A small random model with a context long enough for the lists."""
    folder = tmp_path_factory.mktemp("roomy") / "llama"
    shutil.copytree(small_models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    return lc.load_model(str(folder), device="cpu")


def test_a_random_model_falls_short_and_says_so(roomy) -> None:
    drafts = list(write_text_prompts(roomy, "bees", count=1, seed=3))
    last = drafts[-1]
    assert [draft.done for draft in drafts] == [False] * (len(drafts) - 1) + [True]
    assert last.tried >= 32
    assert sum(last.refused.values()) == last.tried - len(last.source) - len(last.target)
    assert f"among {last.tried} written" in last.message
    with pytest.raises(PromptError, match="give 4 or more"):
        last.to_prompt_set("bees", "Bees")


@pytest.mark.parametrize("calls", [0, 1, 40])
def test_it_stops_when_asked(roomy, calls: int) -> None:
    asked = counting()
    drafts = list(write_text_prompts(roomy, "bees", should_stop=lambda: next(asked) >= calls))
    assert drafts[-1].done
    assert "before it was stopped" in drafts[-1].message
    # Once it returns true, only the loop and the message call it again, not another batch.
    assert next(asked) <= calls + 8


def test_it_ends_when_the_time_is_up(roomy) -> None:
    ticks = counting()
    drafts = list(write_text_prompts(roomy, "bees", seconds=50, clock=lambda: float(next(ticks))))
    assert "of 32 each in 50 s" in drafts[-1].message
    assert 50 <= drafts[-1].seconds < 60


@pytest.mark.parametrize("write", [write_text_prompts, write_image_prompts])
def test_wrong_arguments(roomy, tiny, write) -> None:
    for concept in ("", " \n", "."):
        with pytest.raises(PromptError, match="concept is empty"):
            next(write(roomy, concept))
    with pytest.raises(PromptError, match="concept has 81 characters"):
        next(write(roomy, "x" * 81))
    with pytest.raises(ConfigError, match="count is 0"):
        next(write(roomy, "bees", count=0))
    with pytest.raises(ConfigError, match="reads 128 tokens"):
        next(write(tiny, "bees"))


def test_a_way_of_speaking_is_only_written_about(roomy) -> None:
    def message(concept: str) -> str:
        return list(write_text_prompts(roomy, concept, should_stop=lambda: True))[-1].message

    assert "A pirate accent is a way of speaking" in message("a pirate accent")
    assert "formal English is" not in message("pirates of English harbours")


def test_a_concept_is_not_among_its_own_lessons(roomy, monkeypatch) -> None:
    leads = []

    class Listening(Continuer):
        def __init__(self, model, lead: str) -> None:
            leads.append(lead)
            super().__init__(model, lead)

    monkeypatch.setattr("lineas_core.prompts.writing.writer.Continuer", Listening)
    for concept in ("trains", "Honey", "old books"):
        leads.clear()
        list(write_text_prompts(roomy, concept, should_stop=lambda: True))
        target, source = leads
        named = concept.lower().split()[-1].removesuffix("s")
        assert named not in target.lower().replace(f"about {concept.lower()}", "")
        assert target.replace(concept, "everyday life") == source


@pytest.mark.thorough
@pytest.mark.embedded
@pytest.mark.parametrize("count", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_the_embedded_model_writes_about_a_topic_nobody_listed(smollm2, count: int) -> None:
    drafts = list(write_text_prompts(smollm2, "volcanoes", count=count, seed=0, seconds=400))
    last = drafts[-1]
    assert last.done
    assert not last.message
    assert len(last.source) == len(last.target) == sum(last.frames.values()) == count
    for before, after in pairwise(drafts):
        assert len(before.source) <= len(after.source)
        assert len(before.target) <= len(after.target)
    assert line_issues(last.source, last.target) == []
    assert all(sentence_flaw(text) == "" for text in last.source + last.target)
    assert all(first_like(text, last.target) is None for text in last.source)
    # No stock frame, and words of the topic's own.
    assert max(last.frames.values()) <= 2
    assert sum("about volcanoes" in text for text in last.target) <= 2
    assert not any(re.search("volcano", text, re.IGNORECASE) for text in last.source)
    forms = [any_form(word) for word in last.own]
    assert sum(any(form.search(text) for form in forms) for text in last.target) >= count / 2
    assert len(last.own) >= 5 * count / 8
    assert f"{len(last.own)} words of the topic's own" in last.variety


@pytest.mark.embedded
def test_the_embedded_model_writes_captions_of_known_things(smollm2) -> None:
    def write(seed: int) -> Draft:
        *_, last = write_image_prompts(
            smollm2, "pixel art, 8-bit", subjects=SUBJECTS, count=8, seed=seed, seconds=400
        )
        return last

    last = write(0)
    assert last.source == write(0).source != write(1).source
    assert len(last.source) == 8
    names = [thing.split(" ", 1)[1] for thing in SUBJECTS]
    for source, target in zip(last.source, last.target, strict=True):
        assert any(name in source for name in names)
        tags = target.removeprefix(source + ", ").split(", ")
        assert 1 <= len(tags) <= 2
        assert set(tags) <= {"pixel art", "8-bit"}


@pytest.mark.embedded
def test_the_command_writes_a_set_that_loads(smollm2, tmp_path) -> None:
    app = typer.Typer()
    register(app)
    output = tmp_path / "new" / "pixels.json"
    arguments = ["pixel art", "--image", "--count", "4", "--json", "-o", str(output)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["files"] == [str(output)]
    prompts = lc.PromptSet.load(output)
    assert (prompts.modality, prompts.concept, len(prompts.target)) == ("image", "pixel art", 4)


def test_no_global_noise_is_drawn(roomy) -> None:
    state = torch.get_rng_state()
    list(write_image_prompts(roomy, "pixel art", count=1))
    assert torch.equal(torch.get_rng_state(), state)
