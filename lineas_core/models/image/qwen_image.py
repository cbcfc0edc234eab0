"""Qwen-Image: a transformer with a stream for the image and one for a prompt of any length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lineas_core.errors import ConfigError
from lineas_core.models.image.conditioning import Conditioning
from lineas_core.models.image.denoisers import TransformerDenoiser
from lineas_core.models.image.schedule import Schedule


class QwenImageDenoiser(TransformerDenoiser):
    """A QwenImagePipeline. Its latents are 2 x 2 patches."""

    mask_name = "prompt_embeds_mask"

    def guides(self, schedule: Schedule) -> bool:
        """Above 1, unless the transformer takes the guidance as an input."""
        return schedule.guidance > 1 and not self.module.config.guidance_embeds

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """The tokens of the prompt's template from the place at which the pipeline starts."""

        def tokens_of(prompt: str, **settings: Any) -> dict[str, Any]:
            text = self.pipeline.prompt_template_encode.format(prompt)
            ids = self.pipeline.tokenizer(text, **settings)["input_ids"]
            return {"input_ids": ids[self.pipeline.prompt_template_encode_start_idx :]}

        return [(tokens_of, self.tokens)]

    def encode(self, prompts: list[str]) -> Conditioning:
        """The prompts' tokens, padded to the longest, and their mask."""
        tokens, mask = self.pipeline.encode_prompt(
            prompts, self.device, max_sequence_length=self.tokens
        )
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        if tokens.shape[1] == self._side**2:
            # One more of padding, so that the number of tokens tells the streams apart.
            tokens, mask = pad(tokens, (0, 0, 0, 1)), pad(mask, (0, 1))
        return Conditioning(tokens, mask=mask)

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """(n, patches, channels per patch)."""
        noise: Tensor = self.pipeline.prepare_latents(
            len(generators),
            self.module.config.in_channels // 4,
            self.size,
            self.size,
            torch.float32,
            torch.device("cpu"),
            generators,
        )
        return noise

    def denoise(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """(n, patches, channels per patch)."""
        count, mask = len(latents), conditioning.mask
        scales = torch.full((count,), guidance, device=self.device)
        output: Tensor = self.module(
            hidden_states=latents,
            timestep=timestep.expand(count).to(latents.dtype) / 1000,
            guidance=scales if self.module.config.guidance_embeds else None,
            # As the pipeline does, since attention without a mask is faster.
            encoder_hidden_states_mask=None if mask is None or mask.all() else mask,
            encoder_hidden_states=conditioning.tokens,
            img_shapes=[[(1, self._side, self._side)]] * count,
            return_dict=False,
        )[0]
        return output

    def _settings(self, schedule: Schedule) -> dict[str, Any]:
        settings = super()._settings(schedule)
        terminal = self.pipeline.scheduler.config.get("shift_terminal")
        if schedule.steps == 1 and terminal:
            # It stretches the noise levels so that the last has a given value, and one cannot be.
            raise ConfigError(
                f"steps is 1, and the scheduler's shift_terminal, {terminal}, needs 2 or more."
            )
        if not self.module.config.guidance_embeds:
            del settings["guidance_scale"]
        scale = schedule.guidance if self.guides(schedule) else 1.0
        return {**settings, "true_cfg_scale": scale}

    @property
    def _side(self) -> int:
        """Side of the image in patches."""
        return super()._side // 2
