"""Which candidates the filters reject, and why."""

import pytest

from lineas_core.prompts.filters import Topic, caption_flaw, sentence_flaw


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
        ("Suddenly, the entire town was filled with coffee.", "odd"),
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


@pytest.mark.parametrize(
    ("side", "text", "gain", "flaw"),
    [
        ("target", "My father taught me chess in a week.", -1.0, ""),
        ("target", "Our queen is a chess player.", 1.0, "odd"),
        ("target", "Our queen was on the left side.", 0.4, ""),
        ("target", "Our queen was on the left side.", 0.3, "off topic"),
        ("target", "The loaf was on the left side.", 0.7, "off topic"),
        ("target", "The loaf was on the left side.", 0.9, ""),
        ("source", "The loaf was on the left side.", 0.0, ""),
        ("source", "The loaf was on the left side.", 0.2, "on topic"),
        ("source", "Two queens met in the street.", 0.0, "on topic"),
    ],
)
def test_a_topic_knows_its_sides(side, text: str, gain: float, flaw: str) -> None:
    assert Topic("chess", ["queen", "rook"]).flaw(side, text, gain) == flaw
