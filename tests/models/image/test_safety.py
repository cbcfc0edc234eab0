"""The safety checker: a small one in the hub's layout, compared with diffusers' class."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPImageProcessor

import lineas_core as lc
from lineas_core.models.image import safety
from lineas_core.models.image.safety import SafetyChecker, is_withheld, withheld_note
from lineas_core.models.load import as_image_model
from lineas_core.studio.access.moderation import load_for_visitors
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.images.callbacks import ImageCallbacks
from tests.helpers.studio import ANN, SITE, add_map, answers_of, rack

CPU = torch.device("cpu")
RED, BLUE = (Image.new("RGB", (40, 24), color) for color in ("red", "blue"))


def save_checker(
    folder: Path,
    flagged: list[Image.Image],
    strict: float = 0.999,
    spared: Image.Image | None = None,
) -> Path:
    """Save a small checker with one concept per flagged picture: its embedding.

    If a picture is spared, the concept is the difference to its embedding instead, which separates
    the two even if they are similar.
    """
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "projection_dim": 8,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    reader = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    with torch.no_grad():
        # A threshold of 2 disables a concept, since cosines are at most 1.
        network.concept_embeds_weights.fill_(2.0)
        network.special_care_embeds_weights.fill_(2.0)
        for number, image in enumerate(flagged):
            pixels = reader(image, return_tensors="pt").pixel_values
            pooled = network.vision_model(pixels)[1]
            embedding = normalize(network.visual_projection(pooled)[0], dim=0)
            if spared is not None:
                pixels = reader(spared, return_tensors="pt").pixel_values
                other = network.visual_projection(network.vision_model(pixels)[1])[0]
                embedding -= normalize(other, dim=0)
            network.concept_embeds[number] = embedding
            network.concept_embeds_weights[number] = strict
    network.save_pretrained(folder / "safety_checker")
    reader.save_pretrained(folder / "feature_extractor")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Fix the seed: some random models draw two pictures that no checker can distinguish."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def checker(tmp_path: Path) -> SafetyChecker:
    return SafetyChecker.load(CPU, str(save_checker(tmp_path / "checker", [RED])), None)


def test_a_flagged_picture_is_withheld_and_another_is_not(checker: SafetyChecker) -> None:
    assert checker.flags([RED, BLUE, RED]) == [True, False, True]
    assert checker.flags([]) == []
    first, second = checker.screen([RED, BLUE])
    assert second is BLUE
    assert first.size == RED.size
    assert first.getpixel((0, 0)) == safety.GREY
    # It has text on it.
    assert len(first.getcolors()) > 2
    assert (is_withheld(first), is_withheld(second)) == (True, False)


@pytest.mark.parametrize("strict", [0.2, 0.6, 0.9])
def test_it_flags_what_the_class_of_diffusers_flags(tmp_path: Path, strict: float) -> None:
    folder = save_checker(tmp_path, [RED, BLUE], strict)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, 20, 20, 3), generator=generator, dtype=torch.uint8)
    tints = torch.randint(0, 256, (24, 1, 1, 3), generator=generator)
    images = [Image.fromarray(p.numpy()) for p in ((pixels // 4) + tints * 3 // 4).byte()]
    network = StableDiffusionSafetyChecker.from_pretrained(folder, subfolder="safety_checker")
    reader = CLIPImageProcessor.from_pretrained(folder, subfolder="feature_extractor")
    wanted = [
        network(
            clip_input=reader(image, return_tensors="pt").pixel_values,
            images=torch.ones(1, 3, 4, 4),
        )[1][0]
        for image in images
    ]
    assert SafetyChecker.load(CPU, str(folder), None).flags(images) == wanted
    assert sum(wanted) > 0 or strict == 0.9


def test_a_model_with_a_checker_shows_no_flagged_picture(painter: str, tmp_path: Path) -> None:
    model = as_image_model(lc.load_model(painter, device="cpu"))
    free = model.generate(["ab", "ba"], seed=3)
    folder = save_checker(tmp_path / "checker", [free[0]], 0.0, free[1])
    model.checker = SafetyChecker.load(CPU, str(folder), None)
    shown = model.generate(["ab", "ba"], seed=3)
    assert list(map(is_withheld, shown)) == [True, False]
    assert shown[1].tobytes() == free[1].tobytes()
    alone = model.generate(["ab", "ba"], seed=3, batch_size=1)
    assert list(map(is_withheld, alone)) == [True, False]
    grid = model.sweep(["ab"], [], [0.0, 1.0], seed=3)
    assert list(map(is_withheld, grid.images[0])) == [True, True]


def test_the_page_says_how_many_are_withheld(studio: Studio, painter: str, tmp_path: Path) -> None:
    model = as_image_model(studio.model_cache.get(painter))
    free = model.generate(["ab", "ba"], seed=3)
    shown, _, _ = ImageCallbacks(studio, answers_of(studio)).look(ANN, painter, rack(), "ab\nba", 3)
    assert "withheld" not in shown
    folder = save_checker(tmp_path / "checker", free[:1], 0.0, free[1])
    model.checker = SafetyChecker.load(CPU, str(folder), None)
    pictures = ImageCallbacks(studio, answers_of(studio))
    shown, (before, _), _ = pictures.look(ANN, painter, rack(), "ab\nba", 3)
    assert "1 of 2 pictures is withheld" in shown
    assert shown.count("IMG <b>not scored") == 1
    assert before.getpixel((0, 0)) == safety.GREY
    ink = add_map(studio, painter, {SITE: 16}, 0)
    table, *_ = pictures.grid(ANN, painter, rack((ink, 1.0)), "ab", 3)
    assert "of 7 pictures" in table


def test_the_mark_of_a_withheld_picture_survives_what_happens_to_pictures() -> None:
    image = safety.withheld_picture((16, 16))
    assert is_withheld(pickle.loads(pickle.dumps(image)))
    assert is_withheld(image.resize((32, 32)))
    assert not is_withheld(RED)
    assert withheld_note([RED]) == ""
    assert withheld_note([image, RED]).startswith("1 of 2 pictures is withheld")
    assert withheld_note([image, image]).startswith("2 of 2 pictures are withheld")


def test_every_image_model_but_the_embedded_one_gets_the_checker(
    painter: str, writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checker(tmp_path / "checker", [RED])
    load = SafetyChecker.load
    monkeypatch.setattr(SafetyChecker, "load", lambda device: load(device, str(folder), None))
    guarded = as_image_model(load_for_visitors(painter, tmp_path, safety_checker=True))
    assert guarded.checker is not None
    assert guarded.checker.flags([RED, BLUE]) == [True, False]
    free = as_image_model(load_for_visitors(painter, tmp_path, safety_checker=False))
    assert free.checker is None
    assert load_for_visitors(writer, tmp_path, safety_checker=True).modality == "text"


def test_a_model_does_not_load_without_the_checker_that_is_asked_for(
    painter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = SafetyChecker.load
    missing = str(tmp_path / "nothing")
    monkeypatch.setattr(SafetyChecker, "load", lambda device: load(device, missing, None))
    with pytest.raises(lc.ModelError, match="Cannot load the safety checker"):
        load_for_visitors(painter, tmp_path, safety_checker=True)


def test_a_checker_in_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = save_checker(tmp_path, [RED]) / "safety_checker"
    network: Any = StableDiffusionSafetyChecker.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(lc.ModelError, match="Cannot load the safety checker"):
        SafetyChecker.load(CPU, str(tmp_path), None)


def test_the_hubs_checker_is_pinned_to_a_commit() -> None:
    assert len(safety.REVISION) == 40
    assert int(safety.REVISION, 16)
    assert safety.REPOSITORY.count("/") == 1
