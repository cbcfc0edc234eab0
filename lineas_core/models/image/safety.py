"""A safety checker for pictures: what it flags is withheld.

The checker is the one that Stable Diffusion 1 ships with: CLIP's embedding of a picture, compared
with those of concepts that are not for every eye. It knows sexual content, and little else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lineas_core.models.shared.loading import loading

REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# The repository that the checker was first published in has it as a pickle only.
REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
WITHHELD = "withheld"
GREY, INK = (128, 128, 128), (255, 255, 255)

# It announces a black picture; ours are grey, and the page says how many there are.
logging.getLogger("diffusers.pipelines.stable_diffusion.safety_checker").addFilter(
    lambda record: "NSFW" not in record.getMessage()
)


class SafetyChecker:
    """Tells which pictures are to be withheld.

    Args:
        network: a StableDiffusionSafetyChecker.
        reader: makes its input of pictures.
    """

    def __init__(self, network: Any, reader: Any) -> None:
        self._network, self._reader = network, reader

    @classmethod
    def load(
        cls, device: torch.device, source: str = REPOSITORY, revision: str | None = REVISION
    ) -> SafetyChecker:
        """The checker of a pipeline.

        Args:
            device: where it runs.
            source: a repository on the hub, or a folder, of a StableDiffusionPipeline.
            revision: the repository's commit.

        Raises:
            ModelError: it cannot be found, or does not fit.
        """
        # These take seconds to import, and an app answers before it needs them.
        from diffusers.pipelines.stable_diffusion.safety_checker import (
            StableDiffusionSafetyChecker,
        )
        from transformers import CLIPImageProcessor

        network: Any = StableDiffusionSafetyChecker
        with loading(f"the safety checker of {source}", device):
            reader = CLIPImageProcessor.from_pretrained(
                source, subfolder="feature_extractor", revision=revision
            )
            loaded = network.from_pretrained(
                source,
                subfolder="safety_checker",
                revision=revision,
                # Without pickles, which can run code.
                use_safetensors=True,
                dtype=torch.float16 if device.type == "cuda" else torch.float32,
            )
            return cls(loaded.eval().requires_grad_(False).to(device), reader)

    def flags(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether each picture is to be withheld."""
        if not images:
            return []
        pixels = self._reader(list(images), return_tensors="pt").pixel_values
        # The network blackens what it is given; that are these, not the pictures.
        blank = [np.zeros((1, 1, 3)) for _ in images]
        _, flagged = self._network(
            clip_input=pixels.to(self._network.device, self._network.dtype), images=blank
        )
        return list(map(bool, flagged))

    def screen(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """The pictures, with a grey one in the place of each that is flagged."""
        flagged = self.flags(images)
        return [
            withheld_picture(image.size) if withheld else image
            for image, withheld in zip(images, flagged, strict=True)
        ]


def withheld_picture(size: tuple[int, int]) -> Image.Image:
    """What is shown in place of a flagged picture."""
    image = Image.new("RGB", size, GREY)
    font = ImageFont.load_default(max(8, size[0] // 10))
    ImageDraw.Draw(image).text((size[0] / 2, size[1] / 2), WITHHELD, INK, font, anchor="mm")
    image.info[WITHHELD] = True
    return image


def is_withheld(image: Image.Image) -> bool:
    """Whether a picture stands in place of a flagged one."""
    return bool(image.info.get(WITHHELD))


def withheld_note(images: Sequence[Image.Image]) -> str:
    """How many of the pictures are withheld, in words; empty where none is."""
    count = sum(map(is_withheld, images))
    if not count:
        return ""
    return (
        f"{count} of {len(images)} pictures {'is' if count == 1 else 'are'} withheld: the safety "
        "checker takes what it shows for unfit for a public page. Try another prompt or seed."
    )
