from __future__ import annotations

from dataclasses import replace

import pytest

import lineas_core as lc
from lineas_core.diagnostics.report import HealthReport, Recommendation, SiteDeltas
from lineas_core.diagnostics.style_knowledge import (
    LEVELS,
    StyleKnowledge,
    drawn_styles,
    listed_answer,
    listed_style,
    style_knowledge,
    takes_away,
)
from lineas_core.diagnostics.style_verdict import with_style
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import PromptSet, Sides, shipped_prompt_sets
from tools.captions import TAGS

EMOJI = catalog()["emoji-onestep"]
HEALTHY = HealthReport(
    SiteDeltas({"a": 1.0}, {"a": 0.3}), None, 1.0, 1.0, 1.0, None, "healthy", "All is well."
)


def test_the_catalogue_lists_what_the_model_was_trained_on() -> None:
    assert {name: tuple(wordings) for name, wordings in EMOJI.styles.items()} == TAGS
    assert drawn_styles(EMOJI) == [wordings[0] for wordings in TAGS.values()]


@pytest.mark.parametrize(
    ("concept", "style"),
    [
        ("Pixel Art", "pixel-art"),
        ("in the style of Hokusai", "ukiyo-e"),
        ("watercolor painting", "watercolor"),
        ("Kid\u2019s painting", "kids-painting"),
        ("flat colors", "fluent-flat"),
        ("origami", None),
        ("pixel art origami", None),
        ("the style", None),
        ("", None),
    ],
)
def test_a_style_is_found_by_its_words(concept: str, style: str | None) -> None:
    assert listed_style(EMOJI, concept) == style


def test_every_shipped_emoji_set_is_listed() -> None:
    names = [n for n in shipped_prompt_sets() if n.startswith("emoji-")]
    found = {n: listed_answer(EMOJI, PromptSet.load(n).concept) for n in names}
    assert set(found.values()) == {"known"}


def test_a_set_that_takes_something_away_is_not_one_towards_it() -> None:
    for name, away in (("remove-umbrella", True), ("remove-clock", True), ("emoji-anime", False)):
        prompts = PromptSet.load(name)
        assert takes_away(prompts.concept, Sides(prompts.source, prompts.target)) is away


@pytest.mark.embedded
def test_the_embedded_model_is_measured() -> None:
    emoji = lc.load_model("emoji-onestep", device="cpu")
    assert isinstance(emoji, DiffusionModel)
    level = LEVELS["clip-emoji"]
    blueprint = PromptSet.load("emoji-blueprint")
    known = style_knowledge(emoji, "blueprint", Sides(blueprint.source, blueprint.target))
    assert known.answer == "known"
    assert known.source is not None
    assert known.target is not None
    assert known.source + 0.1 < level < known.target
    already = style_knowledge(
        emoji, "twemoji", Sides(blueprint.source, [f"{line}, twemoji" for line in blueprint.source])
    )
    assert already.answer == "already so"
    assert already.source is not None
    assert already.source > level
    painted = Sides(blueprint.source, [f"{line}, oil painting" for line in blueprint.source])
    unknown = style_knowledge(emoji, "oil painting", painted)
    assert unknown.answer == "unknown"
    assert unknown.target is not None
    assert unknown.target < level - 0.1


@pytest.mark.parametrize(
    ("answer", "gain", "strength", "verdict"),
    [
        ("known", 0.2, 0.6, "healthy"),
        ("cannot tell", 0.2, 0.6, "healthy"),
        ("unknown", 0.0, None, "unknown style"),
        ("unknown", 0.1, 0.6, "unknown style"),
        ("already so", 0.0, None, "already so"),
        ("known", 0.0, None, "no effect"),
        ("known", 0.2, None, "collapsed"),
    ],
)
def test_a_map_is_healthy_only_if_its_pictures_say_so(
    answer: str, gain: float, strength: float | None, verdict: str
) -> None:
    found = Recommendation(strength, ((0.0, 0.0), (1.0, gain)), "", "CLIPScore")
    report = with_style(HEALTHY, "x", found, StyleKnowledge(answer), ["anime", "pixel art"])  # type: ignore[arg-type]
    assert (report.verdict, report.style_gain) == (verdict, gain)
    assert ("anime and pixel art" in report.advice) is (verdict in ("unknown style", "already so"))
    overfitted = replace(HEALTHY, verdict="overfitted")
    clear = strength is not None and gain >= 0.05 and verdict
    noted = with_style(overfitted, "x", found, StyleKnowledge(answer), ["anime", "pixel art"])  # type: ignore[arg-type]
    assert noted.verdict == (clear or "overfitted")
    by_distance = Recommendation(1.0, ((1.0, 0.5),), "", "distance")
    unknown = StyleKnowledge("unknown")
    assert with_style(HEALTHY, "x", by_distance, unknown, []) == HEALTHY
