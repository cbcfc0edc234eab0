from __future__ import annotations

import itertools
import random
from dataclasses import replace

import lineas_core as lc
from lineas_core.diagnostics.copying import (
    COMPLETIONS,
    MANY_COPIES,
    OPENINGS,
    TOKENS,
    with_copies,
)
from lineas_core.diagnostics.health import check_health
from lineas_core.metrics.copies import WORDS, has_copies
from lineas_core.prompts.prompt_set import Sides
from tests.helpers.models import random_map


def test_copies_are_found_as_by_looking_for_the_words() -> None:
    draw = random.Random(0)
    line = lambda: " ".join(draw.choices("ab", k=draw.randint(0, 9)))  # noqa: E731
    texts, sentences = [line() for _ in range(300)], [line() for _ in range(2)]

    def looked_for(text: str) -> bool:
        return any(
            f" {' '.join(words)} " in f" {sentence} "
            for words in itertools.product("ab", repeat=WORDS)
            for sentence in sentences
            if f" {' '.join(words)} " in f" {text} "
        )

    found = has_copies(texts, sentences)
    assert found == [looked_for(text) for text in texts]
    assert 10 < sum(found) < 290


def test_case_and_punctuation_do_not_count_and_words_are_whole() -> None:
    sentence = "The striker's shot hit the far post."
    assert has_copies(
        [
            "“THE STRIKER'S SHOT, hit -- the” ball",
            "the striker's shot hit a",
            "the striker's shot hit them",
            "The striker\u2019s shot hit the",
            "",
        ],
        [sentence],
    ) == [True, False, False, False, False]


def test_copies_are_counted_in_completions_at_the_strength(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0, spread=0.2)
    report = check_health(tiny, smap, *prompts.split(0.25, 0))
    texts = tiny.generate(
        [OPENINGS[i % len(OPENINGS)] for i in range(COMPLETIONS)],
        [(smap, 0.7)],
        seed=range(COMPLETIONS),
        max_new_tokens=TOKENS,
    )
    healthy, training = replace(report, verdict="healthy"), Sides(["no such words"], texts)
    found = with_copies(healthy, tiny, smap, training, 0.7)
    share = sum(has_copies(texts, texts)) / COMPLETIONS
    assert found.copies == share > MANY_COPIES
    assert found.verdict == "overfitted"
    assert f"{share:.0%} of completions" in found.advice
    other = with_copies(replace(report, verdict="collapsed"), tiny, smap, training, 0.7)
    assert (other.copies, other.verdict, other.advice) == (share, "collapsed", report.advice)
    fresh = with_copies(healthy, tiny, smap, Sides(prompts.source, prompts.target), 0.7)
    assert (fresh.copies, fresh.verdict) == (0, "healthy")


def test_pictures_have_no_copies(prompts: lc.PromptSet, tiny: lc.LanguageModel) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    report = check_health(tiny, smap, *prompts.split(0.25, 0))
    assert with_copies(report, object(), smap, Sides([], []), 1.0) is report
