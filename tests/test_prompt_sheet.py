"""What is kept of what was written."""

import random
from itertools import count as counting

from lineas_core.prompt_sheet import Draft, Sheet

WORDS = ["apple", "brick", "cloud", "drum", "eagle", "flute", "grape", "hinge", "igloo", "jewel"]
WORDS += ["kite", "lemon", "mango", "nest"]


def sheet(count: int, seconds: float = 1000.0) -> Sheet:
    ticks = counting()
    return Sheet("bees", count, seconds, None, lambda: float(next(ticks)))


def test_the_likeliest_are_kept_in_the_order_they_were_written() -> None:
    rng = random.Random(0)
    some = sheet(8)
    losses = [rng.random() for _ in range(12)]
    for word, loss in zip(WORDS, losses, strict=False):
        assert some.take("target", f"{word} falls on {word[::-1]}", "", loss)
    assert not some.take("target", "zebra runs to town", "", 0.0), "half as many again are enough"
    kept = [word for word, loss in zip(WORDS, losses, strict=False) if loss <= sorted(losses)[7]]
    assert [text.split()[0] for text in some.draft().target] == kept
    assert some.draft().tried == 12


def test_what_is_like_others_is_refused() -> None:
    some = sheet(8)
    assert some.take("source", "The cat sat by the window.", "", 1.0, plain=True)
    assert not some.take("source", "The cat sat on a roof.", "", 1.0, plain=True)
    assert not some.take("source", "A cat sat by the window.", "", 1.0, plain=True)
    assert some.take("source", "My window is open.", "", 1.0, plain=True)
    assert some.take("source", "Every window breaks.", "", 1.0, plain=True)
    assert not some.take("source", "Rain hits the window.", "", 1.0, plain=True)
    assert not some.take("source", "Rain falls.", "length", 1.0, plain=True)
    assert some.draft().refused == {
        "begins alike": 1,
        "near duplicate": 1,
        "same word again": 1,
        "length": 1,
    }


def test_time_that_ends_with_enough_is_no_shortfall() -> None:
    some = sheet(2, seconds=20.0)
    for side in ("source", "target"):
        assert some.take(side, f"{side} one", "", 1.0)
        assert some.take(side, f"Another for {side}", "", 1.0)
    assert not some.ended(("source", "target"))
    while not some.stop():
        pass
    assert some.ended(("source", "target"))
    assert some.draft(done=True).message == ""


def test_a_draft_becomes_a_set() -> None:
    lines = tuple("abcd"), tuple("efgh")
    prompts = Draft("Football", *lines).to_prompt_set("mine", "Mine")
    assert (prompts.source, prompts.target) == ([*"abcd"], [*"efgh"])
    assert (prompts.concept, prompts.modality) == ("football", "text")
    assert Draft("Football", *lines).to_prompt_set("m", "M", "image").concept == "Football"
