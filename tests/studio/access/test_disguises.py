"""Text that only machines read differently."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineas_core.studio.access.disguises import spaced_out, undisguised


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Ordinary words, 1984.", "ordinary words, 1984."),
        ("st\u00adup\u200bid", "stupid"),
        ("\u0455tu\u0440\u0456d \u03bf\u043e", "stupid oo"),
        ("s\u0323tu\u0308pid", "stupid"),
        ("5tup1d!", "stupid!"),
        ("s t u p i d", "stupid"),
        ("s.t.u.p.i.d m.a.n", "stupid man"),
        ("s t u p i d  m a n", "stupid man"),
        ("stuuuupid", "stupid"),
        ("a b", "a b"),
        ("\u4f60\u597d", "\u4f60\u597d"),
        ("", ""),
    ],
)
def test_text_is_read_as_a_reader_does(text: str, read: str) -> None:
    assert undisguised(text) == read


def test_what_is_spaced_out_is_read_without_what_is_between() -> None:
    assert spaced_out("N o t a t a l l, and i.n.d.e.e.d") == ["notatall", "indeed"]
    assert spaced_out("nothing of the kind") == []


# Words as people write them: no letter three times in a row, none of one letter.
WORD = st.text(st.sampled_from(string.ascii_lowercase), min_size=2, max_size=9).filter(
    lambda word: not re.search(r"(.)\1\1", word)
)
INVISIBLE = st.sampled_from(["\u200b", "\u200d", "\u00ad", "\u2060", "\ufeff", "\u0301", "\u0335"])


@given(st.lists(WORD, min_size=1, max_size=5))
def test_plain_words_stay_as_they_are(words: list[str]) -> None:
    text = " ".join(words)
    assert undisguised(text) == undisguised(text.upper()) == text
    assert spaced_out(text) == []


@given(WORD.filter(lambda word: len(word) > 2), INVISIBLE)
def test_nothing_between_the_letters_hides_a_word(word: str, between: str) -> None:
    full = "".join(chr(ord(letter) + 0xFEE0) for letter in word)
    for disguised in (between.join(word), full, " ".join(word), "-".join(word)):
        assert undisguised(disguised) == word
