"""Z-Image: a transformer that reads image and prompt as one sequence, each of its own length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from jaxtyping import Bool
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lineas_core.errors import SiteError
from lineas_core.models.image.chat_tokens import ChatTokens
from lineas_core.models.image.conditioning import Conditioning
from lineas_core.models.image.denoisers import TransformerDenoiser
from lineas_core.models.image.schedule import Schedule


@dataclass(frozen=True)
class Captions(Conditioning):
    """Prompts of unequal lengths, padded; the transformer gets each without its padding.

    It fills each up to a multiple of 32 tokens of its own, which count as real, and pads only the
    rows of a batch to the longest.

    Attributes:
        image_tokens: tokens of the image, which come before those of the prompt.
    """

    image_tokens: int = 0

    @property
    def unpadded(self) -> list[Tensor]:
        """(tokens, d) of each prompt."""
        assert self.mask is not None
        return [row[mask] for row, mask in zip(self.tokens, self.mask, strict=True)]

    def mask_at(self, tokens: int) -> Bool[Tensor, "n tokens"] | None:
        """True where a site's output of prompts, or of image and prompts, is not padding.

        Raises:
            SiteError: the longest prompt has as many tokens as the image, so that it cannot be told
                which of them a site puts out.
        """
        assert self.mask is not None
        filled = -(-self.mask.sum(dim=1) // SEQ_MULTI_OF) * SEQ_MULTI_OF
        longest = int(filled.max())
        if int(filled.min()) == longest:
            return None
        if longest == self.image_tokens:
            raise SiteError(
                f"The image and the longest prompt have {longest} tokens each, and whether a site "
                "puts out the one or the other cannot be told. Shorten the longest prompts."
            )
        before = {longest: 0, self.image_tokens + longest: self.image_tokens}
        if tokens not in before:
            return None
        places = torch.arange(tokens, device=filled.device) - before[tokens]
        return places < filled[:, None]


class ZImageDenoiser(TransformerDenoiser):
    """A ZImagePipeline."""

    doubles_batch = True
    float32_latents = True

    def guides(self, schedule: Schedule) -> bool:
        """Above 0: the call adds the difference to the prompt's prediction, not to the other."""
        return schedule.guidance > 0

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """The chat model's tokenizer, which puts the prompt into its template."""
        return [(ChatTokens(self.pipeline.tokenizer, thinking=True), self.tokens)]

    def encode(self, prompts: list[str]) -> Conditioning:
        """The last layer's input for each prompt."""
        # The pipeline writes into the list that it gets.
        rows, _ = self.pipeline.encode_prompt(
            list(prompts),
            self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.tokens,
        )
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        tokens = pad_sequence(rows, batch_first=True)
        mask = torch.arange(tokens.shape[1], device=lengths.device) < lengths[:, None]
        patches = (self._side // self.module.config.all_patch_size[0]) ** 2
        image_tokens = -(-patches // SEQ_MULTI_OF) * SEQ_MULTI_OF
        return Captions(tokens, mask=mask, image_tokens=image_tokens)

    def started(self, noise: Tensor, schedule: Schedule) -> Any:
        """With timesteps that depend on the number of patches."""
        shift = self.shift_for((noise.shape[2] // 2) * (noise.shape[3] // 2))
        return self.flow_scheduler(schedule.steps, shift)

    def denoise(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """(n, channels, 1, height, width)."""
        assert isinstance(conditioning, Captions)
        output: list[Tensor] = self.module(
            list(latents.unsqueeze(2).unbind()),
            (1000 - timestep.expand(len(latents))) / 1000,
            conditioning.unpadded,
            return_dict=False,
        )[0]
        return torch.stack(output)

    def _embeddings(self, conditioning: Conditioning) -> dict[str, Any]:
        assert isinstance(conditioning, Captions)
        return {"prompt_embeds": conditioning.unpadded}

    @property
    def _side(self) -> int:
        """Side of the latents, which are taken in patches of 2 x 2."""
        return super()._side // 2 * 2

    def _own_size(self) -> int:
        # The call's own default is 1024 pixels.
        return 1024 // int(self.pipeline.vae_scale_factor)
