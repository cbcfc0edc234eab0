from __future__ import annotations

import re
from html import unescape
from typing import Any

import gradio as gr
import pytest

import lineas_core as lc
from lineas_core.methods.names import TITLES
from lineas_core.models.load import as_image_model, as_language_model
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.components.choices import Choice
from lineas_core.studio.tabs.compare.callbacks import CompareCallbacks
from tests.helpers.studio import ANN, BOB, SITE, add_map, answers_of, finished, rack

OWNER = owner_of(ANN)
MAPS = ("a", "b", "figures", "pictured", "opening")
STATE = ("jobs", "timer", "progress", "train", "cancel", "trained")


def named(names: tuple[str, ...], shown: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(names, shown, strict=True))


def test_a_choice_is_taken_though_the_list_has_changed_since(
    studio: Studio, inks: list[str]
) -> None:
    given: dict[str, Any] = {"choices": [("One", "one")], "label": "Map"}
    with pytest.raises(gr.Error, match="gone"):
        gr.Dropdown(**given).preprocess("gone")
    choice = Choice(**given)
    assert [choice.preprocess(sent) for sent in ("gone", "one", None, ["one"])] == [
        "gone", "one", None, None,
    ]  # fmt: skip
    assert choice.get_config()["name"] == gr.Dropdown(**given).get_config()["name"] == "dropdown"
    shown = named(MAPS, CompareCallbacks(studio, answers_of(studio)).open(ANN, inks[0], "gone"))
    assert (shown["a"]["value"], shown["b"]["value"]) == tuple(inks)


def cells(html: str) -> dict[str, list[str]]:
    """Heading of each row of a table -> its cells."""
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", html)
    return {head: re.findall(r"<td>(.*?)</td>", rest) for head, rest in rows}


@pytest.fixture
def a_set(studio: Studio, prompts: lc.PromptSet) -> str:
    """Ann's prompt set."""
    return studio.library.add_prompts(OWNER, prompts).id


def test_two_methods_are_trained_and_their_maps_stand_beside_each_other(
    studio: Studio, writer: str, a_set: str
) -> None:
    work = CompareCallbacks(studio, answers_of(studio))
    shown = named(STATE, work.train(ANN, writer, a_set, "mean-act", "lin-act"))
    assert shown["timer"].active
    assert (shown["train"]["interactive"], shown["cancel"]["interactive"]) == (False, True)
    assert all(TITLES[method] in shown["progress"] for method in ("mean-act", "lin-act"))
    jobs = [finished(studio, job, OWNER) for job in shown["jobs"]]
    assert [job.status for job in jobs] == ["done", "done"]
    assert jobs[0].prompts == jobs[1].prompts
    end = named(STATE, work.poll(ANN, shown["jobs"]))
    assert not end["timer"].active
    assert end["train"]["interactive"] is True
    assert end["trained"] == [job.map_id for job in jobs]
    assert end["progress"].count("in the library") == 2

    taken = work.take(ANN, end["trained"], rack(("other", 0.3), modality="image"))
    chosen, news = named(MAPS, taken[:-1]), taken[-1]
    assert [chosen["a"]["value"], chosen["b"]["value"]] == end["trained"]
    state = news["state"]
    assert [row["id"] for row in state["rows"]] == [*end["trained"], "other"]
    assert (state["solo"], state["modality"]) == (end["trained"][0], "text")
    found = cells(chosen["figures"])
    assert found["Method"] == ["Mean-AcT", "Lin-AcT"]
    assert found["Seconds to learn"] == [f"{job.seconds:.1f}" for job in jobs]
    health = [studio.library.row(map_id, OWNER).health for map_id in end["trained"]]
    assert found["Training distance left"] == [f"{h.training.ratio:.0%}" for h in health if h]


def test_both_jobs_are_queued_or_neither(studio: Studio, writer: str, a_set: str) -> None:
    work = CompareCallbacks(studio, answers_of(studio))
    with pytest.raises(gr.Error, match="Both are Lin-AcT; choose two"):
        work.train(ANN, writer, a_set, "lin-act", "lin-act")
    with pytest.raises(gr.Error, match="No prompt set is chosen"):
        work.train(ANN, writer, None, "lineas", "lin-act")
    with pytest.raises(gr.Error, match="choose one of lineas"):
        work.train(ANN, writer, a_set, "lineas", "magic")
    [job] = studio.jobs.recent(OWNER)
    assert finished(studio, job.id, OWNER).status == "cancelled"


def test_a_job_that_fails_says_why_and_the_other_is_kept(
    studio: Studio, writer: str, a_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = CompareCallbacks(studio, answers_of(studio))
    model = studio.model_cache.get(writer)
    monkeypatch.setattr(type(model), "train_defaults", {"pooling": "mean", "top_sites": -1})
    shown = named(STATE, work.train(ANN, writer, a_set, "mean-act", "lin-act"))
    for job in shown["jobs"]:
        assert "top_sites is -1" in finished(studio, job, OWNER).message
    end = named(STATE, work.poll(ANN, shown["jobs"]))
    assert end["progress"].count("top_sites is -1") == 2
    assert end["trained"] == gr.skip()
    assert not end["timer"].active


def test_both_are_cancelled_and_nobody_elses(studio: Studio, writer: str, a_set: str) -> None:
    work = CompareCallbacks(studio, answers_of(studio))
    shown = named(STATE, work.train(ANN, writer, a_set, "lineas", "lin-act"))
    assert named(STATE, work.cancel(BOB, shown["jobs"]))["jobs"] == []
    work.cancel(ANN, shown["jobs"])
    assert {finished(studio, job, OWNER).status for job in shown["jobs"]} == {"cancelled"}


def test_pictures_of_two_maps_are_those_of_the_library(
    studio: Studio, painter: str, inks: list[str]
) -> None:
    work = CompareCallbacks(studio, answers_of(studio))
    [html] = work.show(ANN, inks[0], inks[1], 0.7, "ab\nba", "", 3)
    model = as_image_model(studio.model_cache.get(painter))
    found = cells(html)
    assert list(found) == ["ab", "ba"]
    columns: list[list[tuple[lc.SteeringMap, float]]] = [
        [], *([(studio.library.map(ink, OWNER), 0.7)] for ink in inks)
    ]  # fmt: skip
    untouched = model.generate(["ab", "ba"], seed=3)
    for n, steer in enumerate(columns):
        images = model.generate(["ab", "ba"], steer, seed=3)
        kept = lc.img_score(images, untouched)
        gold = lc.clip_score(images, "gold")
        for row, prompt in enumerate(("ab", "ba")):
            assert f"IMG <b>{kept[row]:.2f}</b>" in found[prompt][n]
            assert f"gold <b>{gold[row]:.2f}</b>" in found[prompt][n]
    assert "A: Map 0 0.70" in html
    assert "B: Map 1 0.70" in html


def test_texts_of_two_maps_are_those_of_the_library(
    studio: Studio, writer: str, words: str
) -> None:
    sites = {"model.layers.0.post_attention_layernorm": 16}
    other = add_map(studio, writer, sites, 4, concept="night")
    *_, html = CompareCallbacks(studio, answers_of(studio)).show(
        ANN, words, other, 0.6, "", "ab", 5
    )
    model = as_language_model(studio.model_cache.get(writer))
    shown = re.findall(r'<span class="ls-text">(.*?)</span>', html, re.DOTALL)
    wanted = [
        model.generate(["ab"], steer, seed=5, max_new_tokens=48)[0]
        for steer in ([], *([(studio.library.map(m, OWNER), 0.6)] for m in (words, other)))
    ]
    assert [unescape(re.sub("<.*?>", "", text)) for text in shown] == wanted
    assert html.count("perplexity <b>") == 3
    assert html.count("football <b>") == html.count("night <b>") == 3


def test_map_b_is_of_the_model_of_map_a(
    studio: Studio, inks: list[str], words: str, painter: str
) -> None:
    work = CompareCallbacks(studio, answers_of(studio))
    shown = named(MAPS, work.open(ANN, inks[0], words))
    assert [value for _, value in shown["b"]["choices"]] == [inks[1]]
    assert shown["b"]["value"] == inks[1]
    assert cells(shown["figures"])["Neurons changed"] == ["100%", "100%"]
    assert (shown["pictured"]["visible"], shown["opening"]["visible"]) == (True, False)
    alone = named(MAPS, work.open(ANN, words, None))
    assert alone["b"]["value"] is None
    assert "no other map" in alone["figures"]
    assert (alone["pictured"]["visible"], alone["opening"]["visible"]) == (False, True)
    with pytest.raises(gr.Error, match="Two maps are needed"):
        list(work.show(ANN, words, None, 1.0, "", "ab", 0))
    with pytest.raises(gr.Error, match="choose two maps of one model"):
        list(work.show(ANN, words, inks[0], 1.0, "ab", "ab", 0))
    far = add_map(studio, painter, {SITE.replace("attentions", "resnets"): 16}, 9)
    figures = named(MAPS, work.open(ANN, inks[0], far))["figures"]
    assert "do not have a site in common" in figures


def test_a_map_more_is_offered_and_leaves_what_is_chosen(
    studio: Studio, inks: list[str], painter: str
) -> None:
    work = CompareCallbacks(studio, answers_of(studio))
    far = add_map(studio, painter, {SITE: 16}, 9)
    told = named(MAPS, work.relist(ANN, inks[0], inks[1]))
    assert far in [value for _, value in told["a"]["choices"]]
    assert "value" not in told["a"]
    assert "value" not in told["b"]
    assert {told[name]["__type__"] for name in MAPS} == {"update"}
    assert all(set(told[name]) == {"__type__"} for name in ("figures", "pictured", "opening"))
    # One that has gone is replaced, with its figures.
    told = named(MAPS, work.relist(ANN, inks[0], "gone"))
    assert told["b"]["value"] in (inks[1], far)
    assert "Neurons changed" in told["figures"]


def test_what_may_be_trained_on_is_listed(studio: Studio, a_set: str) -> None:
    model, sets = CompareCallbacks(studio, answers_of(studio)).sets(ANN, "text")
    assert model["value"] == "smollm2"
    assert a_set in [value for _, value in sets["choices"]]
    model, sets = CompareCallbacks(studio, answers_of(studio)).sets(ANN, "image")
    assert model["value"] == "emoji-onestep"
    assert "emoji-watercolor" in [value for _, value in sets["choices"]]
