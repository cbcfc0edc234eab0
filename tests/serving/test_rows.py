"""An answer is cut at the same place however often it is looked at, and never taken back."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lineas_core.models.language.decoding import Completion
from lineas_core.serving.rows import Row, Shown

BYTES = st.lists(st.sampled_from(list("aé€😀b".encode())), max_size=40)
STOPS = st.lists(st.sampled_from(["a", "é€", "€b", "aa", "b😀b", "é"]), max_size=3)


def text_of(tokens: list[int]) -> str:
    """One token per byte; what is no whole character is unreadable."""
    return bytes(tokens).decode(errors="replace")


def by_brute_force(tokens: list[int], room: int, stops: list[str], ended: bool) -> Shown:
    """The answer, looking at every token."""
    for count in range(1, min(len(tokens), room) + 1):
        text = text_of(tokens[:count])
        if found := [text.index(stop) for stop in stops if stop in text]:
            return Shown(text[: min(found)], "stop", count)
    if len(tokens) >= room:
        return Shown(text_of(tokens[:room]), "length", room)
    return Shown(text_of(tokens), "stop" if ended else None, len(tokens))


@given(BYTES, STOPS, st.integers(1, 40), st.booleans(), st.sets(st.integers(0, 40)))
def test_the_end_does_not_depend_on_when_one_looks(
    tokens: list[int], stops: list[str], room: int, ended: bool, looks: set[int]
) -> None:
    row = Row(stops, room, text_of)
    shown = [row.shown]
    for count in sorted(look for look in looks if look < len(tokens)):
        row.read(Completion(text_of(tokens[:count]), tokens[:count], False))
        shown.append(row.shown)
    row.read(Completion(text_of(tokens), tokens, ended))
    shown.append(row.shown)
    wanted = by_brute_force(tokens, room, stops, ended)
    if wanted.finish:
        assert row.shown == wanted
    else:
        assert wanted.text.startswith(row.shown.text)
    for early, late in itertools.pairwise(shown):
        assert late.text.startswith(early.text)
        assert early.finish is None or late == early


def test_what_may_become_a_stop_text_is_held_back() -> None:
    row = Row(["###", "\n\n"], 50, text_of)
    told = []
    for text in ("one ##", "one ## two\n", "one ## two\nthree##", "one ## two\nthree###four"):
        row.read(Completion(text, list(text.encode()), False))
        told.append(row.shown.text)
    assert told == ["one ", "one ## two", "one ## two\nthree", "one ## two\nthree"]
    assert row.shown.finish == "stop"
    assert row.shown.tokens == len("one ## two\nthree###")


def test_half_a_character_is_held_back_until_it_is_whole() -> None:
    row = Row([], 50, text_of)
    told = []
    for count in range(1, 5):
        tokens = list("a😀".encode())[: count + 1]
        row.read(Completion(text_of(tokens), tokens, False))
        told.append(row.shown.text)
    assert told == ["a", "a", "a", "a😀"]
