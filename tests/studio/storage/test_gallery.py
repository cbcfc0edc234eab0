"""The maps that ship, on the embedded models that they are for."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

import pytest

import lineas_core as lc
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import shipped_prompt_sets
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.system.paths import packaged

GALLERY = packaged("gallery")
ENTRIES: list[dict[str, Any]] = json.loads((GALLERY / "index.json").read_text("utf-8"))
IMAGES = [entry for entry in ENTRIES if entry["modality"] == "image"]
TEXTS = [entry for entry in ENTRIES if entry["modality"] == "text"]
MEBIBYTE = 2**20


def load(entry: dict[str, Any]) -> lc.SteeringMap:
    return lc.SteeringMap.load(GALLERY / f"{entry['id']}.safetensors")


def test_files_and_index_are_one() -> None:
    files = {path.stem for path in GALLERY.glob("*.safetensors")}
    assert files == {entry["id"] for entry in ENTRIES}
    assert len(files) == len(ENTRIES)
    assert sum(path.stat().st_size for path in GALLERY.iterdir()) < 2.5 * MEBIBYTE
    assert len(IMAGES) == 8
    assert TEXTS


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["id"])
def test_the_index_says_what_the_map_is(entry: dict[str, Any]) -> None:
    smap, prompts = load(entry), lc.PromptSet.load(entry["prompts"])
    assert smap.digest() == entry["digest"]
    assert (smap.info.model, smap.info.concept) == (entry["model"], entry["concept"])
    assert smap.info.prompt_hash == prompts.hash()
    assert prompts.modality == entry["modality"]
    assert entry["prompts"] in shipped_prompt_sets()
    assert 0 < entry["recommended"] <= 1
    assert entry["title"]
    assert entry["tags"]
    shipped = catalog()[entry["model"]].train
    assert {key: smap.info.config[key] for key in shipped} == shipped


@pytest.mark.embedded
def test_looks_fit_the_image_model_and_show_at_the_recommended_strength() -> None:
    model = lc.load_model("emoji-onestep", device="cpu")
    assert isinstance(model, DiffusionModel)
    subjects, seeds = SUBJECTS[:4], range(4)
    untouched = model.generate(subjects, seed=seeds)
    for entry in IMAGES:
        smap = load(entry)
        assert set(smap.sites) == set(model.sites(model.default_sites))
        steered = model.generate(subjects, [(smap, entry["recommended"])], seed=seeds)
        assert all(a != b for a, b in zip(untouched, steered, strict=True))
        before, after = (
            fmean(lc.clip_score(images, entry["concept"], device="cpu"))
            for images in (untouched, steered)
        )
        assert after > before + 0.02, entry["id"]


@pytest.mark.thorough
@pytest.mark.embedded
def test_topics_fit_the_language_model(smollm2: lc.LanguageModel) -> None:
    for entry in TEXTS:
        smap, topic = load(entry), lc.PromptSet.load(entry["prompts"]).target
        assert set(smap.sites) == set(smollm2.sites(smollm2.default_sites))
        untouched = smollm2.perplexity(topic)
        with lc.steer(smollm2, [(smap, entry["recommended"])]):
            assert smollm2.perplexity(topic) < 0.97 * untouched
