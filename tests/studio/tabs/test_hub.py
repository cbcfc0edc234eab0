"""The library tab on a small fake Hub: search, install, push, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import yaml

import lineas_core as lc
from lineas_core.hub.search import MAX_FOUND
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.library.hub import HubCallbacks
from tests.helpers.hub import CLIENT_WARNING, HOST, READER, TOKEN, Fault, SmallHub
from tests.helpers.models import random_map
from tests.helpers.studio import ANN, BOB, add_map, answers_of

pytestmark = pytest.mark.filterwarnings(CLIENT_WARNING)

REPO = "ann/ink"


@pytest.fixture
def work(studio: Studio, hub: SmallHub) -> HubCallbacks:
    hub.may_write.discard(HOST)
    return HubCallbacks(studio, answers_of(studio))


def pushed(repo: str = REPO, private: bool = False, model: str = "smollm2") -> lc.SteeringMap:
    smap = random_map({"n": 4}, 0)
    smap = lc.SteeringMap(smap.sites, lc.MapInfo(model=model, name="ink"))
    smap.push_to_hub(repo, token=TOKEN, private=private, license="mit")
    return smap


def listed(found: dict[str, Any]) -> dict[str, str]:
    return {row["repo"]: row["said"] for row in found["rows"]}


def test_maps_for_a_model_are_listed_and_one_click_installs_one(
    studio: Studio, work: HubCallbacks, hub: SmallHub
) -> None:
    smap = pushed()
    pushed("ann/other", model="gpt2")
    hub.repositories[REPO].downloads = 1
    found = work.search(ANN, "smollm2", "")
    assert listed(found) == {REPO: "by ann · mit · 1 download"}
    assert found["words"] == "1 map for smollm2."
    said, news = work.install(ANN, next(iter(listed(found))), "")
    assert REPO in said
    assert hub.repositories[REPO].head[:12] in said
    [row] = [row for row in studio.library.maps(owner_of(ANN)) if row.tags == (REPO,)]
    assert row.digest == smap.digest()
    assert news["add"] == [row.id]
    assert set(listed(work.search(ANN, "", ""))) == {REPO, "ann/other"}
    empty = work.search(ANN, "qwen3-4b", "")
    assert empty["rows"] == []
    assert "no map for qwen3-4b" in empty["words"]


def test_private_and_gated_maps_say_so(work: HubCallbacks, hub: SmallHub) -> None:
    pushed("ann/secret", private=True)
    pushed("ann/gated")
    hub.repositories["ann/gated"].gated = True
    assert listed(work.search(BOB, "smollm2", "")) == {
        "ann/gated": "by ann · mit · 0 downloads · terms to accept first"
    }
    assert "private" in listed(work.search(ANN, "smollm2", TOKEN))["ann/secret"]
    with pytest.raises(gr.Error, match=r"accept its terms.*https://huggingface.co/ann/gated"):
        work.install(BOB, "ann/gated", READER)


def test_as_many_as_a_list_holds_are_the_most_downloaded(work: HubCallbacks, hub: SmallHub) -> None:
    pushed()
    for number in range(MAX_FOUND):
        hub.repositories[f"bob/{number}"] = hub.repositories[REPO]
    found = work.search(ANN, "smollm2", "")
    assert len(found["rows"]) == MAX_FOUND
    assert found["words"] == f"The {MAX_FOUND} most downloaded maps for smollm2."


def test_a_visitors_private_map_is_nobody_elses(
    studio: Studio, work: HubCallbacks, hub: SmallHub
) -> None:
    """Neither by the login of whoever runs the app, nor from what another visitor downloaded."""
    pushed(private=True)
    hub.users[HOST] = "ann"
    work.install(ANN, REPO, TOKEN)
    for token in ("", READER):
        with pytest.raises(gr.Error, match=f"There is no {REPO} that you may see"):
            work.install(BOB, REPO, token)
        assert work.search(BOB, "smollm2", token)["rows"] == []
    with pytest.raises(gr.Error, match="no Hugging Face token"):
        work.push(ANN, [studio.library.maps(owner_of(ANN))[0].id], "ann/new", "")
    assert not any(row.tags == (REPO,) for row in studio.library.maps(owner_of(BOB)))


def test_a_pushed_map_has_a_card_of_the_visitors_map(
    studio: Studio, work: HubCallbacks, hub: SmallHub, words: str, writer: str
) -> None:
    answers = answers_of(studio)
    row = studio.library.row(words, owner_of(ANN))
    studio.model_cache.get(writer)
    shown = answers.glances.make(owner_of(ANN), row)
    said = HubCallbacks(studio, answers).push(ANN, [words], REPO, TOKEN)
    assert f'<a href="{hub.address}/{REPO}">' in said
    files = hub.repositories[REPO].files
    assert hub.repositories[REPO].private
    data = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert data["widget"] == [{"text": "Once upon a time", "output": {"text": shown["text"]}}]
    assert lc.SteeringMap.from_pretrained(REPO, token=TOKEN).digest() == row.digest
    told = lc.PromptSet(name="a", source=["a"] * 4, target=["b"] * 4, license="mit")
    licensed = studio.library.add_map(
        owner_of(ANN), random_map({"n": 4}, 3), title="Licensed", prompts=told
    )
    work.push(ANN, [licensed.id], "ann/licensed", TOKEN)
    assert b"license: mit" in hub.repositories["ann/licensed"].files["README.md"]


@pytest.mark.parametrize(
    ("fault", "token", "message"),
    [
        (None, "hf_wrong", r"does not accept the login for {}"),
        (Fault("/", 429, {"Retry-After": "40"}), TOKEN, r"requests for {}.*in 40 seconds"),
        (Fault("/"), TOKEN, r"broke off for {}. Try again"),
        (Fault("/", 503), TOKEN, r"answered 503 for {}"),
    ],
    ids=["wrong token", "too many", "broken off", "down"],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_message(
    studio: Studio, work: HubCallbacks, hub: SmallHub, fault: Fault | None, token: str, message: str
) -> None:
    pushed()
    own = add_map(studio, "smollm2", {"n": 4}, 5)
    before = len(studio.library.maps(owner_of(ANN)))
    hub.fault = fault
    for what, call in (
        ("maps for smollm2", lambda: work.search(ANN, "smollm2", token)),
        (REPO, lambda: work.install(ANN, REPO, token)),
        (REPO, lambda: work.push(ANN, [own], REPO, token)),
    ):
        with pytest.raises(gr.Error, match=message.format(re.escape(what))):
            call()
    assert len(studio.library.maps(owner_of(ANN))) == before


def test_no_network_and_limits_are_messages(
    work: HubCallbacks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for call in (
        lambda: work.search(ANN, "smollm2", ""),
        lambda: work.install(ANN, REPO, ""),
    ):
        with pytest.raises(gr.Error, match="HF_HUB_OFFLINE is not set"):
            call()
    with pytest.raises(gr.Error, match="model is 'nonsense'"):
        work.search(ANN, "nonsense", "")
    small = Studio(Settings(home=tmp_path / "small", max_requests=1), environment={})
    try:
        strict = HubCallbacks(small, answers_of(small))
        with pytest.raises(gr.Error, match="cannot be reached"):
            strict.search(BOB, "smollm2", "")
        with pytest.raises(gr.Error, match="more than 1 answers"):
            strict.search(BOB, "smollm2", "")
    finally:
        small.close()
