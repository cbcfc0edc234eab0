from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

import lineas_core as lc
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.train.sites import DEFAULT, LATER, SiteCallbacks
from lineas_core.studio.tabs.train.training import TrainingCallbacks
from tests.helpers.studio import ANN, answers_of, finished

NIGHT = PromptSet.load("night")
TABLE = [[a, b, ""] for a, b in zip(NIGHT.source[:8], NIGHT.target[:8], strict=True)]
PRESET = ("post_layernorm", "post_layernorm")
INPUT = r"model\.layers\.[01]\.input_layernorm"


def train(studio: Studio, model: str, sites: str, method: str = "lineas") -> str:
    shown = TrainingCallbacks(studio).start(
        ANN, "text", model, "Night", "night", TABLE, "ab", 2, 0.01, None, method, sites
    )
    return str(shown.seen["job"])


def test_a_model_that_is_not_in_memory_is_not_loaded_to_count_its_sites(studio: Studio) -> None:
    field, said = SiteCallbacks(answers_of(studio)).reset("smollm2")
    assert (field["choices"], field["value"]) == ([DEFAULT, PRESET], "")
    assert f"Those of post_layernorm. {LATER}" in said.replace("<wbr>", "")
    assert not studio.model_cache.has("smollm2")


def test_a_model_in_memory_shows_its_presets_and_what_they_match(
    studio: Studio, writer: str
) -> None:
    sites = SiteCallbacks(answers_of(studio))
    field, said = sites.reset(writer)
    assert (field["choices"], field["value"]) == ([DEFAULT], "")
    assert LATER in said.replace("<wbr>", "")
    studio.model_cache.get(writer)
    field, said = sites.refresh(writer, "")
    others = [(name, name) for name in ("layernorm", "o_proj")]
    assert field["choices"] == [DEFAULT, PRESET, *others]
    first, second = (f"model.layers.{n}.post_attention_layernorm" for n in (0, 1))
    assert f"3 sites: {first}, {second}, …" in said.replace("<wbr>", "")
    assert "1 site: model.<wbr>norm<" in sites.described(writer, r"model\.norm")
    kept, _ = sites.refresh(writer, INPUT)
    assert "value" not in kept


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "&#x27;(&#x27;, which is not a regular expression"),
        ("nothing", "matches no module"),
        ("<b>", "&#x27;&lt;b&gt;&#x27;, which matches no module"),
        ("x" * 201, "sites has 201 characters"),
    ],
)
def test_an_expression_that_does_not_fit_says_why_and_trains_nothing(
    studio: Studio, writer: str, pattern: str, message: str
) -> None:
    studio.model_cache.get(writer)
    said = SiteCallbacks(answers_of(studio)).described(writer, pattern)
    assert message in said
    assert "warn" in said
    with pytest.raises(gr.Error, match="sites "):
        train(studio, writer, pattern)
    assert studio.jobs.recent(owner_of(ANN), 1) == []


@pytest.mark.parametrize("method", ["lineas", "mean-act"])
def test_a_job_trains_at_the_chosen_sites(studio: Studio, writer: str, method: str) -> None:
    job = finished(studio, train(studio, writer, INPUT, method), owner_of(ANN))
    assert job.status == "done", job.message
    chosen = [f"model.layers.{n}.input_layernorm" for n in (0, 1)]
    assert list(studio.library.map(job.map_id, owner_of(ANN)).sites) == chosen
    assert job.changes["sites"] == INPUT


def test_the_default_in_the_field_is_no_change(
    studio: Studio, small_models: dict[str, Path]
) -> None:
    model = str(small_models["gemma2"])
    loaded = studio.model_cache.get(model)
    assert isinstance(loaded, lc.LanguageModel)
    job = finished(studio, train(studio, model, f" {loaded.default_sites} "), owner_of(ANN))
    assert "sites" not in job.changes
    smap = studio.library.map(job.map_id, owner_of(ANN))
    assert set(smap.sites) == set(loaded.sites(loaded.default_sites))


def test_the_first_choice_is_the_default_of_whichever_model_is_trained(
    studio: Studio, small_models: dict[str, Path]
) -> None:
    for name in ("gemma2", "gpt2"):
        model = str(small_models[name])
        loaded = studio.model_cache.get(model)
        assert isinstance(loaded, lc.LanguageModel)
        job = finished(studio, train(studio, model, DEFAULT[1]), owner_of(ANN))
        assert "sites" not in job.changes
        smap = studio.library.map(job.map_id, owner_of(ANN))
        assert set(smap.sites) == set(loaded.sites(loaded.default_sites))


def test_a_wrong_expression_for_a_model_not_in_memory_ends_the_job_with_the_reason(
    studio: Studio, writer: str
) -> None:
    job = finished(studio, train(studio, writer, "nothing"), owner_of(ANN))
    assert job.status == "failed"
    assert "sites is 'nothing', which matches no module" in job.message
    again = studio.jobs.retry(job.id, owner_of(ANN))
    assert again.changes["sites"] == "nothing"
