"""CLIPScore and IMGScore: how close images are to a text, or to other images, in CLIP's space."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import normalize

from lineas_core.errors import ConfigError, ModelError
from lineas_core.system.devices import choose_device
from lineas_core.system.lru import Recent
from lineas_core.system.paths import shipped
from lineas_core.system.words import counted

AUTO = "auto"
EMBEDDED_SCORER = "clip-emoji"
# Side, in pixels, of the largest images that the embedded scorer was made for.
EMBEDDED_SIDE = 128
LARGE_SCORER = "vit-l-14"
BATCH = 32
CACHED_EMBEDDINGS = 4096

# The only file that is opened: Hub repositories and folders may also hold pickles, which can run
# code.
WEIGHTS = "open_clip_model.safetensors"
# Name -> folder, or open_clip's names for an architecture and its weights on the Hub.
SCORERS: dict[str, Path | tuple[str, str]] = {
    "clip-emoji": shipped("assets/clip-emoji"),
    # OpenAI's weights expect QuickGELU; open_clip's plain "ViT-L-14" would run them with GELU.
    "vit-l-14": ("ViT-L-14-quickgelu", "openai"),
    "vit-b-32": ("ViT-B-32", "laion2b_s34b_b79k"),
}

Item = TypeVar("Item")


class Scores(list[float]):
    """One number per item, and the name of the scorer they come from.

    Scores from different scorers are not comparable: each has its own scale.

    >>> Scores([0.25, 0.5], "vit-b-32")
    Scores([0.25, 0.5], scorer='vit-b-32')
    """

    def __init__(self, values: Iterable[float], scorer: str) -> None:
        super().__init__(values)
        self.scorer = scorer

    def __repr__(self) -> str:
        return f"Scores({super().__repr__()}, scorer={self.scorer!r})"


class ClipScorer:
    """A CLIP model that scores images and caches the embeddings it has computed.

    Create one with `load_scorer`. A lock serializes calls from several threads.

    Args:
        name: label of the results.
        model: an open_clip model, in eval mode, with `encode_image` and `encode_text`.
        preprocess: PIL image in RGB -> float (3, height, width). open_clip's scales the shorter
            side to the model's size, up or down, and crops the centre; an image of that size,
            such as 128 x 128 for clip-emoji, is only normalised.
        tokenizer: texts -> ids (n, context); texts beyond the model's context are truncated.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
    ) -> None:
        self.name = name
        self.model: Any = model
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._images: Recent[Tensor] = Recent(CACHED_EMBEDDINGS)
        self._texts: Recent[Tensor] = Recent(CACHED_EMBEDDINGS)
        self._lock = threading.Lock()

    def image_embeddings(self, images: Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """Unit embeddings of images of any mode and size, float32 on the CPU; (0, 0) for none."""

        def encode(batch: list[Image.Image]) -> Tensor:
            pixels = torch.stack([self.preprocess(image) for image in batch])
            features: Tensor = self.model.encode_image(pixels.to(self._device))
            return features

        colours = [image.convert("RGB") for image in images]
        return self._embed(colours, [_digest(image) for image in colours], self._images, encode)

    def text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit embeddings of texts, float32 on the CPU; (0, 0) for none."""

        def encode(batch: list[str]) -> Tensor:
            features: Tensor = self.model.encode_text(self.tokenizer(batch).to(self._device))
            return features

        return self._embed(texts, list(texts), self._texts, encode)

    def clip_score(self, images: Sequence[Image.Image], text: str) -> Scores:
        """Like the function `clip_score`, with this scorer."""
        if not text.strip():
            raise ConfigError(f"text is {text!r}; say what the images should look like.")
        style = self.text_embeddings([text])[0]
        return Scores([float(image @ style) for image in self.image_embeddings(images)], self.name)

    def img_score(self, images: Sequence[Image.Image], references: Sequence[Image.Image]) -> Scores:
        """Like the function `img_score`, with this scorer."""
        if len(images) != len(references):
            raise ConfigError(
                f"{counted(len(images), 'image')} for "
                f"{counted(len(references), 'reference')}; give one for each."
            )
        found = self.image_embeddings([*images, *references])
        pairs = zip(found[: len(images)], found[len(images) :], strict=True)
        return Scores([float(image @ reference) for image, reference in pairs], self.name)

    def _embed(
        self,
        items: Sequence[Item],
        keys: Sequence[Hashable],
        recent: Recent[Tensor],
        encode: Callable[[list[Item]], Tensor],
    ) -> Tensor:
        """One row per item; the model runs once for each key that is not cached."""
        if not keys:
            return torch.empty(0, 0)
        with self._lock:
            rows = {key: row for key in keys if (row := recent.get(key)) is not None}
            new = {key: item for key, item in zip(keys, items, strict=True) if key not in rows}
            todo = list(new)
            for start in range(0, len(todo), BATCH):
                batch = todo[start : start + BATCH]
                with torch.no_grad():
                    found = normalize(encode([new[key] for key in batch]).float(), dim=-1).cpu()
                for key, row in zip(batch, found, strict=True):
                    # Copy the row: a view would keep its whole batch in memory.
                    rows[key] = row.clone()
                    recent.put(key, rows[key])
        return torch.stack([rows[key] for key in keys])


def clip_score(
    images: Sequence[Image.Image], text: str, *, scorer: str = AUTO, device: str = "auto"
) -> Scores:
    """How well each image matches a text.

    `cos(E_image(x), E_text(t))`, the plain cosine. Hessel et al., "CLIPScore: A Reference-free
    Evaluation Metric for Image Captioning" (2021), rescale it to `2.5 * max(cos, 0)`.

    Args:
        images: any mode and size; transparency is dropped.
        text: the style or concept, such as "pixel art".
        scorer: clip-emoji (ships with the project, for images of up to 128 x 128), vit-l-14,
            vit-b-32 (both fetched from the Hugging Face Hub), or a folder in open_clip's format.
        device: "auto" picks a GPU if there is one; otherwise a torch device name.

    Returns:
        A list of floats in the order of `images`, with the scorer's name in `scorer`.

    Raises:
        ConfigError: the text is empty, or there is no such device.
        ModelError: the scorer cannot be loaded.
    """
    return load_scorer(_chosen(scorer, images), device).clip_score(images, text)


def img_score(
    images: Sequence[Image.Image],
    references: Sequence[Image.Image],
    *,
    scorer: str = AUTO,
    device: str = "auto",
) -> Scores:
    """How similar each image is to its reference; 1 if they are identical.

    `cos(E_image(x_s), E_image(x_0))`. In LinEAS, x_s is the image at strength s, and the reference
    x_0 is the image that the unsteered model generates with the same prompt and seed.

    Args:
        images: any mode and size; transparency is dropped.
        references: one for each image, in the same order.
        scorer: as for `clip_score`.
        device: as for `clip_score`.

    Returns:
        A list of floats in the order of `images`, with the scorer's name in `scorer`.

    Raises:
        ConfigError: the numbers of images and references differ, or there is no such device.
        ModelError: the scorer cannot be loaded.
    """
    return load_scorer(_chosen(scorer, images), device).img_score(images, references)


def load_scorer(name: str = EMBEDDED_SCORER, device: str = "auto") -> ClipScorer:
    """Return the named scorer: loaded on the first call, the same object afterwards.

    Args:
        name: one of SCORERS, or a folder with open_clip_config.json, weights and, if the config
            names one, a tokenizer. A folder is read only once: later changes have no effect.
        device: "auto" picks a GPU if there is one; otherwise a torch device name.

    Raises:
        ConfigError: there is no such device.
        ModelError: there is no such scorer, or it cannot be loaded; the message says what to do.
    """
    chosen = choose_device(device)
    with _loading:
        if (name, chosen) not in _loaded:
            _loaded[name, chosen] = _load(name, chosen)
        return _loaded[name, chosen]


def scorer_for(size: int) -> str:
    """The name of the scorer for images whose side is `size` pixels."""
    return EMBEDDED_SCORER if size <= EMBEDDED_SIDE else LARGE_SCORER


def clip_for(size: int, device: str = "auto") -> ClipScorer:
    """Load the scorer for images whose side is `size` pixels.

    Raises:
        ModelError: it cannot be loaded.
    """
    return load_scorer(scorer_for(size), device)


def _chosen(name: str, images: Sequence[Image.Image]) -> str:
    """The name itself; of "auto", the scorer for the largest of the images."""
    if name != AUTO:
        return name
    return scorer_for(max((side for image in images for side in image.size), default=0))


_loaded: dict[tuple[str, torch.device], ClipScorer] = {}
_loading = threading.Lock()


def _load(name: str, device: torch.device) -> ClipScorer:
    source = SCORERS.get(name, Path(name).expanduser())
    if isinstance(source, Path):
        remedy = "Give another folder or one of: " + ", ".join(SCORERS)
        for file in ("open_clip_config.json", WEIGHTS):
            if not (source / file).is_file():
                raise ModelError(f"There is no scorer {name!r}: {source} has no {file}. {remedy}.")
    else:
        remedy = "Check that this machine reaches the Hugging Face Hub, or use 'clip-emoji'"
    # Imported here, as it takes seconds and most of the library does not need it.
    import open_clip  # type: ignore[import-untyped]

    try:
        if isinstance(source, Path):
            architecture, weights = f"local-dir:{source}", None
        else:
            architecture, tag = source
            repository = open_clip.get_pretrained_cfg(architecture, tag)["hf_hub"].strip("/")
            weights = hf_hub_download(repository, WEIGHTS)
        # Unlike create_model_and_transforms, this never falls back to random weights.
        model, preprocess = open_clip.create_model_from_pretrained(
            architecture, weights, device=device
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ImportError,
        SafetensorError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"Cannot load the scorer {name} ({reason}). {remedy}.") from error
    return ClipScorer(name, model.eval().requires_grad_(False), preprocess, tokenizer)


def _digest(image: Image.Image) -> bytes:
    """The SHA-256 of an RGB image's size and pixels."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
