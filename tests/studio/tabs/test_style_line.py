from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from lineas_core.models.shared import availability
from lineas_core.models.shared.catalog import CatalogEntry, catalog
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.prompts import too_long_for
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.train.style_line import StyleCallbacks
from lineas_core.studio.tabs.train.training import TrainingCallbacks
from tests.helpers.studio import ANN, answers_of

EMOJI = "emoji-onestep"


def rows(prompts: PromptSet) -> list[list[str]]:
    return [[a, b, ""] for a, b in zip(prompts.source, prompts.target, strict=True)]


def test_what_a_model_asks_for_is_said_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks_for(entry: CatalogEntry, gpu: bool = False) -> str:
        return availability.asks_for(entry, gpu=gpu, home=tmp_path)

    sdxl, gpt2, gemma = (catalog()[name] for name in ("sdxl-turbo", "gpt2", "gemma-3-270m"))
    monkeypatch.setattr(availability, "is_cached", lambda entry: False)
    assert asks_for(sdxl) == "needs a GPU, 7 GB to download"
    assert asks_for(sdxl, gpu=True) == "7 GB to download"
    assert asks_for(gpt2) == "1 GB to download"
    assert asks_for(gemma) == "Gemma Terms of Use: `lineas weights gemma-3-270m`"
    converted = tmp_path / "models" / gemma.id
    converted.mkdir(parents=True)
    assert asks_for(gemma) == ""
    converted.rmdir()
    monkeypatch.setattr(availability, "is_cached", lambda entry: True)
    assert asks_for(sdxl) == "needs a GPU"
    assert asks_for(gemma) == ""
    assert asks_for(catalog()["smollm2"]) == asks_for(catalog()[EMOJI]) == ""
    assert all(entry.download or availability.embedded(entry) for entry in catalog().values())


def test_sets_with_prompts_too_long_come_last_and_say_so(studio: Studio) -> None:
    found = answers_of(studio).prompts.choices(owner_of(ANN), "image")
    marked = [name for title, name in found if title.endswith("too long for this model")]
    assert set(marked) == too_long_for(EMOJI)
    assert [name for _, name in found[-len(marked) :]] == marked
    assert {"style-fantasy", "style-robots"} <= set(marked)
    assert not any(name.startswith("emoji-") for name in marked)
    larger = answers_of(studio).prompts.choices(owner_of(ANN), "image", "sdxl-turbo")
    assert not any("too long" in title for title, _ in larger)


def test_prompts_too_long_are_refused_before_there_is_a_job(studio: Studio) -> None:
    robots = PromptSet.load("style-robots")
    with pytest.raises(gr.Error, match=r"too long for Emoji one-step, which reads 24 tokens"):
        TrainingCallbacks(studio).start(
            ANN, "image", EMOJI, "x", "robots", rows(robots), "a tiger", 1, None, None
        )
    assert studio.jobs.recent(owner_of(ANN), 1) == []
    ((said, styles),) = StyleCallbacks(answers_of(studio)).show(
        "image", EMOJI, "robots", rows(robots)
    )
    assert "Shorten them, or choose a larger model" in said
    assert styles["visible"] is False


@pytest.mark.embedded
def test_the_line_says_what_the_model_knows_and_offers_it(studio: Studio) -> None:
    line, anime = StyleCallbacks(answers_of(studio)), PromptSet.load("emoji-anime")
    ((said, styles),) = line.show("image", EMOJI, anime.concept, rows(anime))
    assert "This model knows “anime”" in said
    assert styles["visible"] is False
    assert not studio.model_cache.has(EMOJI)
    sprayed = replace(anime, target=[f"{text}, graffiti" for text in anime.source])
    looking, (said, styles) = line.show("image", EMOJI, "<graffiti>", rows(sprayed))
    assert "Looking" in looking[0]
    assert "does not know “&lt;graffiti&gt;”" in said
    assert ("pixel art", "emoji-pixel-art") in styles["choices"]
    assert ("glossy 3d render", "emoji-fluent-3d") in styles["choices"]
    tigers = ["a tiger", "a tiger at rest", "the tiger", "one tiger", "my tiger", "a big tiger"]
    plain = replace(anime, source=tigers, target=[f"{text}, tiger" for text in tigers])
    *_, (said, _) = line.show("image", EMOJI, "a tiger", rows(plain))
    assert "without any map" in said
    ((said, _),) = line.show("text", "smollm2", "night", rows(PromptSet.load("night")))
    assert said == ""
