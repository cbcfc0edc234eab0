"""A safety checker that withholds the images it flags.

It is the checker that Stable Diffusion 1 ships with, which compares the CLIP embedding of an image
with those of unsafe concepts. It recognises sexual content, and little else.
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
# The repository in which the checker was first published has it only as a pickle.
REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
WITHHELD = "withheld"
GREY, INK = (128, 128, 128), (255, 255, 255)

# Drop its message about a black image: ours are grey, and the page says how many are withheld.
logging.getLogger("diffusers.pipelines.stable_diffusion.safety_checker").addFilter(
    lambda record: "NSFW" not in record.getMessage()
)


class SafetyChecker:
    """Decides which images to withhold.

    Args:
        network: a StableDiffusionSafetyChecker.
        reader: the image processor that prepares its input.
    """

    def __init__(self, network: Any, reader: Any) -> None:
        self._network, self._reader = network, reader

    @classmethod
    def load(
        cls, device: torch.device, source: str = REPOSITORY, revision: str | None = REVISION
    ) -> SafetyChecker:
        """Load the checker of a pipeline.

        Args:
            device: where it runs.
            source: hub repository or folder of a StableDiffusionPipeline.
            revision: the repository's commit.

        Raises:
            ModelError: it cannot be found, or does not fit.
        """
        # Imported here: they take seconds, and the app responds before it needs them.
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
                # No pickles, as they can run code.
                use_safetensors=True,
                dtype=torch.float16 if device.type == "cuda" else torch.float32,
            )
            return cls(loaded.eval().requires_grad_(False).to(device), reader)

    def to(self, device: torch.device) -> None:
        """Move it."""
        self._network.to(device)

    def flags(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether to withhold each image."""
        if not images:
            return []
        pixels = self._reader(list(images), return_tensors="pt").pixel_values
        # The network blackens flagged images in place, so give it blanks instead of the originals.
        blank = [np.zeros((1, 1, 3)) for _ in images]
        _, flagged = self._network(
            clip_input=pixels.to(self._network.device, self._network.dtype), images=blank
        )
        return list(map(bool, flagged))

    def screen(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """The images, with each flagged one replaced by a grey image."""
        flagged = self.flags(images)
        return [
            withheld_picture(image.size) if withheld else image
            for image, withheld in zip(images, flagged, strict=True)
        ]


def withheld_picture(size: tuple[int, int]) -> Image.Image:
    """The grey image that replaces a flagged one."""
    image = Image.new("RGB", size, GREY)
    font = ImageFont.load_default(max(8, size[0] // 10))
    ImageDraw.Draw(image).text((size[0] / 2, size[1] / 2), WITHHELD, INK, font, anchor="mm")
    image.info[WITHHELD] = True
    return image


def is_withheld(image: Image.Image) -> bool:
    """Whether an image is the replacement of a flagged one."""
    return bool(image.info.get(WITHHELD))


def withheld_note(images: Sequence[Image.Image]) -> str:
    """A message saying how many images are withheld; empty if none."""
    count = sum(map(is_withheld, images))
    if not count:
        return ""
    return (
        f"{count} of {len(images)} pictures {'is' if count == 1 else 'are'} withheld: the safety "
        "checker flagged content unfit for a public page. Try another prompt or seed."
    )
