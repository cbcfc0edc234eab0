"""The embedded image model and CLIP, loaded as users load them."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

import lineas_core as lc
from lineas_core.metrics.clip import ClipScorer
from lineas_core.models.image.model import DiffusionModel
from lineas_core.prompts.prompt_set import shipped_prompt_sets
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.system.paths import shipped

ASSETS = shipped("assets")
MEBIBYTE = 2**20

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    loaded = lc.load_model("emoji-onestep", device="cpu")
    assert isinstance(loaded, DiffusionModel)
    return loaded


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return lc.load_scorer(device="cpu")


def share_found(scorer: ClipScorer, images: list[Image.Image], texts: list[str]) -> float:
    """Share of images whose nearest text is their own."""
    cosines = scorer.image_embeddings(images) @ scorer.text_embeddings(texts).T
    return float((cosines.argmax(dim=1) == torch.arange(len(images))).float().mean())


def test_the_weights_fit_and_are_half_precision_safetensors() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 72 * MEBIBYTE
    assert max(path.stat().st_size for path in files) <= 14 * MEBIBYTE
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert weights
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".png"}
    for path in weights:
        with safe_open(path, "pt") as opened:
            kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path


def test_plain_diffusers_draws_what_the_library_draws(model: DiffusionModel) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(
        ASSETS / "emoji-onestep", dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a tiger, pixel art",
        num_inference_steps=1,
        timesteps=[399],
        guidance_scale=0,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    ours = model.generate(["a tiger, pixel art"], seed=0)[0]
    assert theirs.size == ours.size == (128, 128)
    assert np.abs(np.asarray(theirs, int) - np.asarray(ours, int)).max() <= 2


def test_plain_open_clip_loads_the_scorer(scorer: ClipScorer, model: DiffusionModel) -> None:
    name = f"local-dir:{ASSETS / 'clip-emoji'}"
    plain, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    plain.eval()
    image = model.generate(["a tiger"], seed=0)[0]
    with torch.no_grad():
        seen = plain.encode_image(preprocess(image)[None], normalize=True)
        read = plain.encode_text(tokenizer(["a tiger"]), normalize=True)
    assert scorer.clip_score([image], "a tiger")[0] == pytest.approx(
        float((seen @ read.T).item()), abs=2e-3
    )


def test_pictures_show_what_was_asked_for(model: DiffusionModel, scorer: ClipScorer) -> None:
    texts = list(SUBJECTS)
    assert share_found(scorer, model.generate(texts, seed=range(len(texts))), texts) >= 0.7


def test_pictures_are_in_the_style_that_was_asked_for(
    model: DiffusionModel, scorer: ClipScorer
) -> None:
    sets = [name for name in shipped_prompt_sets() if name.startswith("emoji-")]
    styles = [lc.PromptSet.load(name).concept for name in sets]
    found = []
    for subject in SUBJECTS[:8]:
        texts = [f"{subject}, {style}" for style in styles]
        found.append(share_found(scorer, model.generate(texts, seed=0), texts))
    assert sum(found) / len(found) >= 0.9


def test_two_seeds_are_two_pictures(model: DiffusionModel, scorer: ClipScorer) -> None:
    # The noise selects one of four artists, so some pictures have the same artist by chance.
    one, two = (model.generate(SUBJECTS, seed=seed) for seed in (1, 2))
    cosines = (scorer.image_embeddings(one) * scorer.image_embeddings(two)).sum(dim=1)
    assert (1 - cosines).mean() > 0.05
    pairs = zip(one, two, strict=True)
    assert min(np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in pairs) > 2


def test_a_thing_is_drawn_in_the_look_that_it_is_asked_for_in(
    model: DiffusionModel, scorer: ClipScorer
) -> None:
    things = ["a tiger", "a castle", "an owl", "a rocket", "a cactus", "a guitar"]
    looks = ["pixel art", "pencil sketch", "blueprint", "neon cyberpunk", "anime", "watercolor"]
    made = model.generate(
        [f"{thing}, {look}" for thing, look in zip(things, looks, strict=True)], seed=0
    )
    for texts in (things, looks):
        scores = torch.tensor([list(scorer.clip_score(made, text)) for text in texts])
        assert scores.argmax(0).tolist() == list(range(len(made)))
