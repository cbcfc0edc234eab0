"""What a public Space refuses to teach, and to steer towards."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

import lineas_core as lc
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.prompts.prompt_set import PromptSet, shipped_prompt_sets
from lineas_core.studio.access.moderation import (
    MARGIN,
    ONE_WAY,
    ContentError,
    check_steering,
    check_target,
    lean_of,
    rudeness,
)
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.mix import mix_of
from lineas_core.studio.rack.rack import RackState, Slot
from lineas_core.studio.tabs.compare.callbacks import CompareCallbacks
from lineas_core.studio.tabs.texts.callbacks import TextCallbacks
from lineas_core.studio.tabs.train.training import TrainingCallbacks
from lineas_core.studio.web.api import Api
from tests.helpers.models import random_map
from tests.helpers.studio import ANN, answers_of, rack

SITES = {"model.layers.1.post_attention_layernorm": 16}
# A model of the catalogue, whose weights nothing here asks for.
MODEL = "smollm2"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Studio]:
    settings = Settings(home=tmp_path / "home", demo=True)
    studio = Studio(settings, environment={})
    yield studio
    studio.close()


def swapped(prompts: PromptSet) -> PromptSet:
    return replace(prompts, source=prompts.target, target=prompts.source)


def made_from(prompts: PromptSet) -> SteeringMap:
    info = lc.MapInfo(model=MODEL, name=prompts.name, prompt_hash=prompts.hash())
    return SteeringMap(random_map(SITES, 0).sites, info)


TOXICITY = PromptSet.load("toxicity")
FORMAL = PromptSet.load("formality")
# Lines of a visitor's own, that no shipped set has.
RUDE = PromptSet(
    name="mine",
    source=["The meeting is at ten.", "Your parcel has come.", "Tea is ready.", "It may rain."],
    target=["You stupid moron.", "Shut up, idiot.", "What a pathetic fool.", "You suck, loser."],
)


# 100 that are harmless, and 100 disguised insults; see the file.
SENTENCES = tomllib.loads((Path(__file__).parent / "sentences.toml").read_text("utf-8"))


def against_plain(target: list[str]) -> PromptSet:
    return PromptSet(name="mine", source=RUDE.source, target=target)


@pytest.mark.parametrize("name", shipped_prompt_sets())
def test_no_shipped_set_leans_towards_harm(name: str) -> None:
    prompts = PromptSet.load(name)
    check_target(prompts)
    one_way = lean_of(prompts) == "one-way"
    assert one_way is (name in ONE_WAY)
    # What is not one-way may be turned round.
    assert one_way or lean_of(swapped(prompts)) == "none"


@pytest.mark.parametrize(
    "prompts",
    [
        swapped(TOXICITY),
        replace(swapped(TOXICITY), title="Kind words", modality="image"),
        RUDE,
        replace(FORMAL, target=[*FORMAL.target[1:], TOXICITY.source[0].upper() + "  "]),
    ],
    ids=["swapped", "swapped under another name", "a visitor's own", "with one shipped line"],
)
def test_a_set_that_teaches_toxicity_is_refused(prompts: PromptSet) -> None:
    with pytest.raises(ContentError, match="more toxic than its source"):
        check_target(prompts)


@pytest.mark.parametrize("kind", ["people", "animals", "history"])
def test_nobody_is_refused_for_what_they_are(kind: str) -> None:
    check_target(against_plain(SENTENCES[kind]))
    # A set of any one of them, too.
    rude = zip(SENTENCES[kind], rudeness(SENTENCES[kind]), strict=True)
    assert [line for line, how in rude if how > MARGIN] == []


@pytest.mark.parametrize("disguise", SENTENCES["harmful"])
def test_insults_are_read_through_disguises(disguise: str) -> None:
    lines = SENTENCES["harmful"][disguise]
    with pytest.raises(ContentError, match="more toxic than its source"):
        check_target(against_plain(lines))
    assert sum(how > MARGIN for how in rudeness(lines)) >= len(lines) - 1


@pytest.mark.parametrize("between", ["\u200b", " ", ".", "\u0301"])
def test_a_swapped_set_is_known_in_disguise(between: str) -> None:
    disguised = [between.join(line) for line in TOXICITY.source]
    with pytest.raises(ContentError, match="more toxic than its source"):
        check_target(replace(TOXICITY, source=TOXICITY.target, target=disguised))


def test_the_set_that_ships_teaches_the_other_way() -> None:
    check_target(TOXICITY)
    check_target(FORMAL)
    check_target(swapped(FORMAL))
    check_target(swapped(RUDE))


@pytest.mark.parametrize(
    ("strength", "inverse", "refused"),
    [(1.0, False, False), (0.0, False, False), (2.0, False, False),
     (-0.01, False, True), (1.0, True, True), (-1.0, True, True)],
)  # fmt: skip
@pytest.mark.parametrize("known", [True, False], ids=["its prompts known", "by its hash alone"])
def test_a_one_way_map_is_not_reversed(
    strength: float, inverse: bool, refused: bool, known: bool
) -> None:
    smap = made_from(TOXICITY)
    prompts = TOXICITY if known else None
    if refused:
        with pytest.raises(ContentError, match="cannot be reversed"):
            check_steering(smap, prompts, strength, inverse=inverse)
    else:
        check_steering(smap, prompts, strength, inverse=inverse)


def test_a_map_of_the_swapped_set_is_known_by_its_hash() -> None:
    for strength in (1.0, 0.0, -1.0):
        with pytest.raises(ContentError, match="puts no such map on"):
            check_steering(made_from(swapped(TOXICITY)), None, strength, inverse=False)
    check_steering(made_from(swapped(FORMAL)), None, -1.0, inverse=True)


def test_a_map_of_a_visitors_own_set_is_judged_by_its_prompts() -> None:
    with pytest.raises(ContentError, match="puts no such map on"):
        check_steering(made_from(RUDE), RUDE, 1.0, inverse=False)
    with pytest.raises(ContentError, match="cannot be reversed"):
        check_steering(made_from(swapped(RUDE)), swapped(RUDE), -1.0, inverse=False)
    check_steering(made_from(swapped(RUDE)), swapped(RUDE), 1.0, inverse=False)


def test_the_rack_is_guarded_only_where_strangers_are(demo: Studio) -> None:
    owner = owner_of(ANN)
    row = demo.library.add_map(owner, made_from(TOXICITY))
    reversed_rack = RackState((Slot(row.id, True, -1.0),))
    assert mix_of(reversed_rack, demo.library, owner, MODEL).strengths == (-1.0,)
    with pytest.raises(ContentError, match="cannot be reversed"):
        mix_of(reversed_rack, demo.library, owner, MODEL, guarded=True)
    silent = RackState((Slot(row.id, False, -1.0),))
    assert mix_of(silent, demo.library, owner, MODEL, guarded=True).maps == ()


def test_the_page_and_the_api_refuse_a_reversed_map(demo: Studio) -> None:
    one_way = demo.library.add_map(owner_of(ANN), made_from(TOXICITY)).id
    harmful = demo.library.add_map(owner_of(ANN), made_from(swapped(TOXICITY))).id
    other = demo.library.add_map(owner_of(ANN), made_from(FORMAL)).id
    texts, api = TextCallbacks(demo, answers_of(demo)), Api(demo, answers_of(demo))
    for map_id, strength, inverse, message in (
        (one_way, -0.5, False, "cannot be reversed"),
        (one_way, 0.5, True, "cannot be reversed"),
        (harmful, 0.5, False, "puts no such map on"),
        (harmful, -0.5, False, "puts no such map on"),
    ):
        sent = rack((map_id, strength))
        sent["state"]["rows"][0]["inverse"] = inverse
        with pytest.raises(gr.Error, match=message):
            list(texts.compare(ANN, MODEL, sent, "Once", 0, 8))
        # The sweep goes from 0 to 1 whatever the slider says.
        with pytest.raises(gr.Error, match=message):
            texts.sweep(ANN, MODEL, sent, "Once", 0, 8, 1)
    with pytest.raises(gr.Error, match="cannot be reversed"):
        api.complete(ANN, "Once", [one_way], [-0.5], MODEL)
    with pytest.raises(gr.Error, match="puts no such map on"):
        api.complete(ANN, "Once", [harmful], [0.5], MODEL)
    compare = CompareCallbacks(demo, answers_of(demo))
    with pytest.raises(gr.Error, match="cannot be reversed"):
        list(compare.show(ANN, one_way, other, -0.5, "", "Once", 0))
    with pytest.raises(gr.Error, match="puts no such map on"):
        list(compare.show(ANN, other, harmful, 0.5, "", "Once", 0))
    assert not demo.model_cache.has(MODEL)


def test_training_on_a_harmful_set_is_refused_from_every_door(demo: Studio) -> None:
    training, api = TrainingCallbacks(demo), Api(demo, answers_of(demo))
    table: list[list[Any]] = [
        [source, target, ""] for source, target in zip(RUDE.source, RUDE.target, strict=True)
    ]
    with pytest.raises(gr.Error, match="more toxic than its source"):
        training.start(ANN, "text", MODEL, "Mine", "", table, "", 3, None, None)
    with pytest.raises(gr.Error, match="more toxic than its source"):
        api.train(ANN, MODEL, "", TOXICITY.target, TOXICITY.source)
    kept = demo.library.add_prompts(owner_of(ANN), swapped(TOXICITY)).id
    with pytest.raises(gr.Error, match="more toxic than its source"):
        api.train(ANN, MODEL, kept)
    assert demo.jobs.recent(owner_of(ANN), 9) == []
