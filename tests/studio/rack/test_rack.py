from __future__ import annotations

import pytest

from lineas_core.errors import ConfigError, LineasError
from lineas_core.studio.access.visitors import new_key, owner_of
from lineas_core.studio.rack.places import FIRST_MAPS, first_rack
from lineas_core.studio.rack.rack import MAX_MAPS, RackState, Slot, patch
from lineas_core.studio.rack.screen import Screen
from lineas_core.studio.storage.store import MapRow
from tests.helpers.studio import rack


def rows(count: int, modality: str = "image") -> list[MapRow]:
    return [
        MapRow(f"{modality}{n}", "gallery", "T", "m", modality, "d", 1.0, recommended=0.5 + n / 100)
        for n in range(count)
    ]


def test_a_rack_goes_to_the_page_and_back() -> None:
    state = RackState(
        (Slot("a", True, 0.25), Slot("b", False, -1.0, True)), solo="b", beyond=True,
        modality="text",
    )  # fmt: skip
    assert RackState.from_page({"from": "page", "state": state.to_page()}) == state
    assert RackState.from_page(None) == RackState()
    assert RackState.from_page(patch()) == RackState()


def test_solo_counts_only_among_the_maps_at_hand() -> None:
    state = RackState((Slot("a"), Slot("b", on=False), Slot("c")), solo="b")
    assert [slot.id for slot in state.active(["a", "b"])] == ["b"]
    assert [slot.id for slot in state.active(["a", "c"])] == ["a", "c"]


@pytest.mark.parametrize("strength", [2.01, -1.5, float("nan"), float("inf")])
def test_strengths_out_of_range_are_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match="must be -1 to 2"):
        RackState.from_page(rack(("a", strength)))


@pytest.mark.parametrize(
    "state", [{"rows": 3}, {"rows": [{}]}, {"rows": [{"id": 1, "strength": []}]}]
)
def test_what_is_no_rack_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="reload the page"):
        RackState.from_page({"state": state})


def test_too_many_maps_at_once_are_refused() -> None:
    state = RackState(tuple(Slot(str(n)) for n in range(MAX_MAPS + 1)))
    with pytest.raises(ConfigError, match="Switch some off"):
        state.active([slot.id for slot in state.slots])


def test_a_new_page_has_one_map_of_each_kind_on_at_its_recommended_strength() -> None:
    state = first_rack(rows(5) + rows(2, "text"))
    assert [(slot.id, slot.on) for slot in state.slots] == [
        ("image0", True), ("image1", False), ("image2", False), ("text0", True), ("text1", False),
    ]  # fmt: skip
    assert len(state.slots) == FIRST_MAPS + 2
    assert [slot.strength for slot in state.slots[:2]] == [0.5, 0.51]


def test_a_patch_says_only_what_is_news() -> None:
    assert patch() == {"from": "server"}
    assert set(patch(live=False, effects={})) == {"from", "live", "effects"}
    shown = patch(rows=rows(1))["catalog"][0]
    assert (shown["title"], shown["own"], shown["recommended"]) == ("T", False, 0.5)


def test_a_link_restores_the_screen() -> None:
    screen = Screen(
        RackState((Slot("a", True, 0.3),), modality="text"), "emoji-onestep", "a lion\nein Löwe ☀",
        3, "smollm2", "Once & \"upon\"", 5, 40,
    )  # fmt: skip
    code = screen.to_link()
    assert code.replace("-", "").replace("_", "").isalnum()
    assert Screen.from_link(code) == screen


@pytest.mark.parametrize("code", ["", "%%%", "e30", "bnVsbA", "A" * 20_000])
def test_a_damaged_link_is_a_message(code: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Screen.from_link(code)


def test_a_key_stands_for_one_owner_and_cannot_be_told_from_it() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert len({owner_of(key) for key in keys}) == 100
    assert not any(key in owner_of(key) for key in keys)


@pytest.mark.parametrize("key", ["", "short", "a" * 200, "a b" * 8, "../" * 8, None, 5])
def test_what_is_no_key_is_refused(key: object) -> None:
    with pytest.raises((LineasError, TypeError)):
        owner_of(key)  # type: ignore[arg-type]
