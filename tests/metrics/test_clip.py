from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip import get_model_config, get_pretrained_cfg
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity

import lineas_core as lc
from lineas_core.metrics import clip
from lineas_core.scenes.grid import score_grid
from tests.helpers.clip import CONFIG, MEAN, STD, save_small_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_clip(tmp_path_factory.mktemp("scorers") / "small")


@pytest.fixture
def scorer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> lc.ClipScorer:
    """A scorer loaded as users load it, with empty caches."""
    monkeypatch.setattr(clip, "_loaded", {})
    return lc.load_scorer(str(folder), device="cpu")


def pictures(count: int, side: int = 64) -> list[Image.Image]:
    rng = np.random.default_rng(count)
    return [Image.fromarray(p) for p in rng.integers(0, 256, (count, side, side, 3), np.uint8)]


def count_calls(scorer: lc.ClipScorer) -> dict[str, list[int]]:
    """Record the batch sizes of all later calls of the image and text towers."""
    seen: dict[str, list[int]] = {"images": [], "texts": []}
    for name, tower in (("images", scorer.model.visual), ("texts", scorer.model.token_embedding)):
        tower.register_forward_pre_hook(
            lambda module, given, name=name: seen[name].append(len(given[0]))
        )
    return seen


def test_scores_are_the_cosines_of_plain_open_clip(folder: Path, scorer: lc.ClipScorer) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    images, references = pictures(5), pictures(6)[:5]
    with torch.no_grad():
        text = model.encode_text(tokenizer(["pixel art"]))[0]
        found = [model.encode_image(preprocess(image)[None])[0] for image in images]
        others = [model.encode_image(preprocess(image)[None])[0] for image in references]
    by_text = [float(cosine_similarity(image, text, dim=0)) for image in found]
    by_image = [float(cosine_similarity(a, b, dim=0)) for a, b in zip(found, others, strict=True)]
    assert np.ptp(by_text) > 0.01
    assert np.ptp(by_image) > 0.01
    name = str(folder)
    assert lc.clip_score(images, "pixel art", scorer=name, device="cpu") == pytest.approx(
        by_text, abs=1e-5
    )
    assert lc.img_score(images, references, scorer=name, device="cpu") == pytest.approx(
        by_image, abs=1e-5
    )


def test_small_images_are_only_normalised(scorer: lc.ClipScorer) -> None:
    image = pictures(1)[0]
    pixels = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    assert scorer.preprocess(image).numpy() == pytest.approx(pixels.transpose(2, 0, 1), abs=1e-5)


def test_embeddings_are_unit_rows_in_order(scorer: lc.ClipScorer) -> None:
    images, texts = pictures(3), ["a tiger", "pixel art", "a tiger"]
    rows, words = scorer.image_embeddings(images), scorer.text_embeddings(texts)
    assert rows.shape == words.shape == (3, 16)
    assert rows.dtype == words.dtype == torch.float32
    assert rows.norm(dim=1).tolist() == pytest.approx([1] * 3, abs=1e-6)
    assert words.norm(dim=1).tolist() == pytest.approx([1] * 3, abs=1e-6)
    assert words[0].equal(words[2])
    assert not words[0].allclose(words[1], atol=1e-3)
    assert scorer.image_embeddings(images[::-1]).equal(rows.flip(0))


def test_batching_changes_nothing(
    scorer: lc.ClipScorer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(11)
    together = scorer.clip_score(images, "anime")
    monkeypatch.setattr(clip, "BATCH", 4)
    monkeypatch.setattr(clip, "_loaded", {})
    other = lc.load_scorer(str(folder), device="cpu")
    seen = count_calls(other)
    assert other.clip_score(images, "anime") == pytest.approx(together, abs=1e-5)
    assert seen["images"] == [4, 4, 3]


def test_what_was_seen_is_not_run_again(scorer: lc.ClipScorer) -> None:
    seen = count_calls(scorer)
    images = pictures(4)
    first = scorer.clip_score([*images, images[0]], "anime")
    assert seen == {"images": [4], "texts": [1]}
    assert first[4] == first[0]
    copies = [image.copy() for image in images]
    assert scorer.clip_score(copies, "anime") == first[:4]
    assert scorer.img_score(images, copies) == pytest.approx([1] * 4, abs=1e-6)
    assert seen == {"images": [4], "texts": [1]}
    scorer.clip_score([*images, pictures(9)[0]], "sketch")
    assert seen == {"images": [4, 1], "texts": [1, 1]}


def test_the_least_recent_embedding_is_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "_loaded", {})
    monkeypatch.setattr(clip, "CACHED_EMBEDDINGS", 3)
    scorer = lc.load_scorer(str(folder), device="cpu")
    seen = count_calls(scorer)
    a, b, c, d = pictures(4)
    rows = scorer.image_embeddings([a, b, c])
    scorer.image_embeddings([a])
    scorer.image_embeddings([d])
    assert scorer.image_embeddings([a, c, d])[:2].equal(rows[[0, 2]])
    assert seen["images"] == [3, 1]
    assert scorer.image_embeddings([b]).allclose(rows[[1]], atol=1e-6)
    assert seen["images"] == [3, 1, 1]
    assert scorer.image_embeddings(pictures(6)).shape == (6, 16)


def test_pixels_and_size_tell_images_apart(scorer: lc.ClipScorer) -> None:
    seen = count_calls(scorer)
    wide = Image.frombytes("RGB", (128, 32), pictures(1)[0].tobytes())
    scorer.image_embeddings([pictures(1)[0], wide])
    assert seen["images"] == [2]


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1", "CMYK"])
def test_every_mode_is_scored_as_its_colours(scorer: lc.ClipScorer, mode: str) -> None:
    image = pictures(1, 80)[0].convert(mode)
    if mode == "RGBA":
        image.putalpha(7)
    assert scorer.clip_score([image], "x") == scorer.clip_score([image.convert("RGB")], "x")


def test_results_name_their_scorer(scorer: lc.ClipScorer, folder: Path) -> None:
    image = pictures(1)
    found = scorer.clip_score(image, "x")
    assert found.scorer == scorer.img_score(image, image).scorer == scorer.name == str(folder)
    assert json.loads(json.dumps(found)) == [found[0]]
    assert isinstance(found[0], float)
    assert copy.deepcopy(found).scorer == str(folder)


def test_nothing_scores_nothing(scorer: lc.ClipScorer) -> None:
    assert scorer.clip_score([], "x") == scorer.img_score([], []) == []
    assert scorer.image_embeddings([]).shape == scorer.text_embeddings([]).shape == (0, 0)


def test_a_scorer_is_loaded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "_loaded", {})
    found: list[lc.ClipScorer] = []
    threads = [
        threading.Thread(target=lambda: found.append(lc.load_scorer(str(folder), "cpu")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(scorer) for scorer in found}) == 1
    assert not any(parameter.requires_grad for parameter in found[0].model.parameters())


def test_questions_without_an_answer_are_refused(scorer: lc.ClipScorer) -> None:
    with pytest.raises(lc.ConfigError, match="2 images for 1 reference;"):
        scorer.img_score(pictures(2), pictures(1))
    with pytest.raises(lc.ConfigError, match="text is ' '"):
        scorer.clip_score(pictures(1), " ")
    with pytest.raises(lc.ConfigError, match="device is 'warp'"):
        lc.load_scorer(scorer.name, device="warp")


def test_folders_that_are_no_scorer_are_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(lc.ModelError, match=r"no scorer 'vit-xl'.*clip-emoji, vit-l-14"):
        lc.load_scorer("vit-xl", device="cpu")
    config = (folder / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    # A pickle beside the config is not accepted as weights, although open_clip would load it.
    torch.save({}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(lc.ModelError, match=r"no scorer .* has no open_clip_model.safetensors"):
        lc.load_scorer(str(tmp_path), device="cpu")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"no tensors in here")
    with pytest.raises(lc.ModelError, match="Cannot load the scorer"):
        lc.load_scorer(str(tmp_path), device="cpu")
    save_file({"x": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(lc.ModelError, match="Cannot load the scorer"):
        lc.load_scorer(str(tmp_path), device="cpu")
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
    with pytest.raises(lc.ModelError, match="Cannot load the scorer"):  # no tokenizer
        lc.load_scorer(str(tmp_path), device="cpu")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 16}}')
    with pytest.raises(lc.ModelError, match="Cannot load the scorer"):
        lc.load_scorer(str(tmp_path), device="cpu")


def test_the_embedded_scorer_that_is_not_there_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(clip.SCORERS, "clip-emoji", tmp_path / "clip-emoji")
    monkeypatch.setattr(clip, "_loaded", {})
    with pytest.raises(lc.ModelError, match=r"no scorer 'clip-emoji': .*open_clip_config.json"):
        lc.clip_score(pictures(1), "x", device="cpu")


def test_a_hub_out_of_reach_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(clip, "hf_hub_download", refuse)
    with pytest.raises(lc.ModelError, match=r"vit-b-32 .*no route to host.* Hugging Face Hub"):
        lc.load_scorer("vit-b-32", device="cpu")


def test_weights_of_the_hub_load_from_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "weights.safetensors")

    # Replace the named architecture with a small one, and the Hub's download with a local file.
    words = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    small = {"embed_dim": 16, "vision_cfg": CONFIG["vision_cfg"], "text_cfg": words}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", small)
    monkeypatch.setattr(clip, "hf_hub_download", download)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**copy.deepcopy(small)).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (score,) = clip._load("vit-b-32", torch.device("cpu")).clip_score(pictures(1), "a red cat")
    assert asked == [("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors")]
    seen = open_clip.image_transform(64, is_train=False)(pictures(1)[0].convert("RGB"))
    with torch.no_grad():
        image = model.encode_image(seen[None])
        text = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a red cat"]))
    assert score == pytest.approx(float(cosine_similarity(image, text)), abs=1e-5)


@pytest.mark.parametrize(
    ("architecture", "weights"), [s for s in clip.SCORERS.values() if isinstance(s, tuple)]
)
def test_hub_scorers_exist_and_run_with_their_activation(architecture: str, weights: str) -> None:
    known = get_pretrained_cfg(architecture, weights)
    assert known["hf_hub"].count("/") == 2
    expected = known.get("quick_gelu", False)
    assert get_model_config(architecture).get("quick_gelu", False) == expected
    # A weights file has no preprocessing config, so open_clip uses its default.
    default = open_clip.factory.PreprocessCfg()
    assert (known["mean"], known["std"]) == (default.mean, default.std)
    assert known["interpolation"] == default.interpolation
    assert known["resize_mode"] == default.resize_mode


def test_the_library_imports_without_open_clip() -> None:
    code = "import sys, lineas_core; sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_scorer_is_chosen_by_the_size_of_the_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "_loaded", {})
    for name in ("clip-emoji", "vit-l-14"):
        monkeypatch.setitem(clip.SCORERS, name, folder)
    small, large = (Image.new("RGB", (side, 128), "red") for side in (64, 129))
    assert lc.clip_score([small], "ink", device="cpu").scorer == "clip-emoji"
    assert lc.clip_score([small, large], "ink", device="cpu").scorer == "vit-l-14"
    assert lc.img_score([large], [large], device="cpu").scorer == "vit-l-14"
    grid = lc.ImageGrid(["a"], [0.0, 1.0], [[large, large]])
    assert score_grid(grid, "ink", device="cpu").scorer == "vit-l-14"
