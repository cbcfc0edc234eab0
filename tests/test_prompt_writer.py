"""The writer: its arithmetic on a small random model, its sentences on the embedded one."""

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
from lineas_core.cli_prompts import register
from lineas_core.errors import ConfigError, PromptError
from lineas_core.models.continuer import Continuer
from lineas_core.prompt_flaws import caption_flaw, sentence_flaw
from lineas_core.prompt_marks import first_like, line_marks
from lineas_core.prompt_sheet import Draft
from lineas_core.prompt_writer import write_image_prompts, write_text_prompts
from lineas_core.subjects import SUBJECTS

STARTS = [" A", " The old", " Every morning", " I", " Two", " At the end of", " We", " My"]


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def roomy(small_models, tmp_path_factory) -> lc.LanguageModel:
    """A small random model that reads enough for the lists."""
    folder = tmp_path_factory.mktemp("roomy") / "llama"
    shutil.copytree(small_models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    return lc.load_model(str(folder), device="cpu")


def test_losses_are_those_of_the_whole_text_read_at_once(roomy) -> None:
    leads = ("Sentences about bees:\n-", "Other:\n-")
    here, there = (Continuer(roomy, lead) for lead in leads)
    lines = here.write(STARTS, range(8), never)
    assert here.losses(lines) == pytest.approx([line.loss for line in lines], abs=1e-4)
    for writer, lead in zip((here, there), leads, strict=True):
        expected = []
        for line in lines:
            before = [*roomy.tokenizer(lead)["input_ids"], *line.ids[0]]
            whole = torch.tensor([before + list(line.ids[1])])
            predicted = roomy.module(whole).logits[0, len(before) - 1 : -1]
            expected.append(
                float(torch.nn.functional.cross_entropy(predicted, whole[0, len(before) :]))
            )
        assert writer.losses(lines) == pytest.approx(expected, abs=1e-4)


def test_a_line_depends_on_its_start_and_seed_alone(roomy) -> None:
    writer = Continuer(roomy, "Sentences:\n-")
    together = writer.write(STARTS, range(8), never)
    assert len({len(line.ids[1]) for line in together}) > 1, "lines end at different times"
    for i, line in list(enumerate(together))[::3]:
        (alone,) = writer.write([STARTS[i]], [i], never)
        assert alone.ids == line.ids
        assert alone.loss == pytest.approx(line.loss, abs=1e-4)
    (other,) = writer.write([STARTS[0]], [99], never)
    assert other.ids != together[0].ids


def test_a_random_model_falls_short_and_says_so(roomy) -> None:
    drafts = list(write_text_prompts(roomy, "bees", count=1, seed=3))
    last = drafts[-1]
    assert [draft.done for draft in drafts] == [False] * (len(drafts) - 1) + [True]
    assert last.tried >= 32
    assert sum(last.refused.values()) == last.tried - len(last.source) - len(last.target)
    assert f"among {last.tried} written" in last.message
    with pytest.raises(PromptError, match="give 4 or more"):
        last.to_prompt_set("bees", "Bees")


def test_the_same_seed_writes_the_same(roomy) -> None:
    first, second = (
        Continuer(roomy, "Sentences:\n-").write(STARTS, range(seed, seed + 8), never)
        for seed in (5, 5)
    )
    assert first == second


@pytest.mark.parametrize("calls", [0, 1, 40])
def test_it_stops_when_asked(roomy, calls: int) -> None:
    asked = counting()
    drafts = list(write_text_prompts(roomy, "bees", should_stop=lambda: next(asked) >= calls))
    assert drafts[-1].done
    assert "before it was stopped" in drafts[-1].message
    # Once true, it is asked by the loop, by the message, and not by another batch.
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


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("The baker weighed the flour twice before adding yeast.", ""),
        ("It was Dr. Smith's first day at the clinic.", ""),
        ("He came late.", "length"),
        ("word " * 31 + ".", "length"),
        ("Here is a sentence that you asked for.", "about the task"),
        ('She said "hello" to the old man.', "odd"),
        ("1. The cat sat on the mat.", "odd"),
        ("The cat cat sat on the mat.", "odd"),
        ("- The cat sat on the mat.", "odd"),
        ("The cat sat on the", "unfinished"),
        ("the cat sat on the mat.", "unfinished"),
        ("The volcano erupts after the volcanic storm.", "repeats itself"),
    ],
)
def test_flaws_of_sentences(text: str, flaw: str) -> None:
    assert sentence_flaw(text) == flaw


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("a lion in the snow", ""),
        ("lion", "length"),
        ("a lion next to the", "unfinished"),
        ("a lion, a tiger", "odd"),
        ("a caption of a lion", "about the task"),
        ("a round window next to a window", "repeats itself"),
    ],
)
def test_flaws_of_captions(text: str, flaw: str) -> None:
    assert caption_flaw(text) == flaw


def test_a_draft_becomes_a_set() -> None:
    lines = tuple("abcd"), tuple("efgh")
    prompts = Draft("Football", *lines).to_prompt_set("mine", "Mine")
    assert (prompts.source, prompts.target) == ([*"abcd"], [*"efgh"])
    assert (prompts.concept, prompts.modality) == ("football", "text")
    assert Draft("Football", *lines).to_prompt_set("m", "M", "image").concept == "Football"


@pytest.mark.embedded
def test_the_embedded_model_writes_about_a_concept(smollm2) -> None:
    drafts = list(write_text_prompts(smollm2, "chess", count=8, seed=1, seconds=400))
    last = drafts[-1]
    assert last.done
    assert not last.message
    assert len(last.source) == len(last.target) == 8
    for before, after in pairwise(drafts):
        assert after.source[: len(before.source)] == before.source
        assert after.target[: len(before.target)] == before.target
    assert line_marks(last.source, last.target) == []
    assert all(sentence_flaw(text) == "" for text in last.source + last.target)
    assert not any(re.search("chess", text, re.IGNORECASE) for text in last.source)
    assert sum("chess" in text.lower() for text in last.target) >= 4
    assert all(first_like(text, last.target) is None for text in last.source)


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
