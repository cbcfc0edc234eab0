"""Which of the generated candidates are kept."""

import random
from itertools import count as counting

from lineas_core.prompts.filters import Topic
from lineas_core.prompts.writing.candidates import Draft, Sheet

WORDS = ["apple", "brick", "cloud", "drum", "eagle", "flute", "grape", "hinge", "igloo", "jewel"]
WORDS += ["kite", "lemon", "mango", "nest"]


def sheet(count: int, seconds: float = 1000.0) -> Sheet:
    ticks = counting()
    return Sheet("bees", count, seconds, None, lambda: float(next(ticks)))


def test_the_likeliest_are_kept_in_the_order_they_were_written() -> None:
    rng = random.Random(0)
    some = sheet(8)
    losses = [rng.random() for _ in WORDS]
    for word, loss in zip(WORDS, losses, strict=True):
        some.take("target", f"{word} falls on {word[::-1]}", "", loss)
    kept = [word for word, loss in zip(WORDS, losses, strict=True) if loss <= sorted(losses)[7]]
    assert [text.split()[0] for text in some.draft().target] == kept
    assert some.draft().tried == len(WORDS)


def test_of_lines_that_are_alike_the_likeliest_stay() -> None:
    some = sheet(8)
    lines = {
        "The cat sat by the window.": 1.0,
        "The cat sat on a roof.": 0.5,  # Begins like the first.
        "A cat sat on a roof.": 0.9,  # Almost the one before.
        "My window is open.": 0.3,
        "Every window breaks at night.": 0.4,
        "Rain hits the window.": 0.8,
        "We cleaned the window today.": 0.2,
    }
    for text, loss in lines.items():
        some.take("source", text, "", loss, plain=True)
    assert some.draft().source == (
        "The cat sat on a roof.",
        "My window is open.",
        "Every window breaks at night.",
        "We cleaned the window today.",
    )


def test_what_has_a_flaw_or_was_written_before_is_refused() -> None:
    some = sheet(8)
    for flaw in ("", "", "length"):
        some.take("target", "The bees sleep.", flaw, 1.0)
    assert some.draft().target == ("The bees sleep.",)
    assert some.draft().refused == {"written before": 1, "length": 1}


def test_a_target_that_goes_with_a_source_stays_beside_it() -> None:
    some = sheet(2)
    for loss, name in enumerate(["apple", "brick", "cloud"]):
        some.take("source", f"one {name}", "", -loss, partner=f"one {name}, neon")
    draft = some.draft()
    assert draft.source == ("one brick", "one cloud")
    assert draft.target == ("one brick, neon", "one cloud, neon")


def test_more_is_written_than_is_kept() -> None:
    some = sheet(2)
    taken = 0
    while not some.ended(("target",)):
        word = WORDS[taken]
        some.take("target", f"{word} falls on {word[::-1]}", "", 1.0)
        taken += 1
    assert taken == 8
    assert len(some.draft().target) == 2


def test_time_that_ends_with_enough_is_no_shortfall() -> None:
    some = sheet(2, seconds=20.0)
    for side in ("source", "target"):
        some.take(side, f"{side} one", "", 1.0)
        some.take(side, f"Another for {side}", "", 1.0)
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


def test_no_frame_is_kept_more_than_twice_and_others_take_its_place() -> None:
    topic = Topic("jazz", ["trumpet", "drummer"])
    some = sheet(4)
    lines = {
        "My sister gave me a book about jazz.": 0.1,
        "She saw a film about the trumpet.": 0.2,
        "Our neighbours talk about jazz at night.": 0.3,
        "Old trumpets shine.": 0.5,
        "Rain fell while a drummer slept.": 0.6,
    }
    for text, loss in lines.items():
        some.take("target", text, "", loss, frame=topic.frame(text), own=topic.own(text))
    draft = some.draft()
    assert draft.frames["TELLS", "about", "TOPIC"] == 2
    assert draft.target[-2:] == ("Old trumpets shine.", "Rain fell while a drummer slept.")


def test_a_frame_merges_people_articles_and_what_tells() -> None:
    topic = Topic("volcanoes", ["lava"])
    frames = {
        topic.frame(f"{who} about volcanoes.") for who in ("I read a book", "She gave a talk")
    }
    assert len(frames) == 1
    assert topic.frame("The lava cooled.") == topic.frame("Our lava cooled.")
    assert topic.frame("The lava cooled.") != topic.frame("The lava burned.")
