"""FLUX.2 klein: a transformer that reads a chat model's hidden states."""

from __future__ import annotations

from typing import Any

from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from lineas_core.models.image.chat_tokens import ChatTokens
from lineas_core.models.image.conditioning import Conditioning
from lineas_core.models.image.denoisers import TransformerDenoiser
from lineas_core.models.image.schedule import Schedule


class Flux2KleinDenoiser(TransformerDenoiser):
    """A Flux2KleinPipeline. Its latents are patches, one token each, in the transformer."""

    @property
    def takes_guidance(self) -> bool:
        """Whether the model is not distilled."""
        return not self.pipeline.config.is_distilled

    def guides(self, schedule: Schedule) -> bool:
        """Above 1, unless the model is distilled."""
        return schedule.guidance > 1 and self.takes_guidance

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """The chat model's tokenizer, which puts the prompt into its template."""
        return [(ChatTokens(self.pipeline.tokenizer, thinking=False), self.tokens)]

    def encode(self, prompts: list[str]) -> Conditioning:
        """Three layers' hidden states side by side; padded, and the padding is read too."""
        tokens, _ = self.pipeline.encode_prompt(
            prompts, self.device, max_sequence_length=self.tokens
        )
        return Conditioning(tokens)

    def started(self, noise: Tensor, schedule: Schedule) -> Any:
        """With timesteps that depend on the numbers of patches and steps."""
        patches = noise.shape[2] * noise.shape[3]
        return self.flow_scheduler(schedule.steps, compute_empirical_mu(patches, schedule.steps))

    def denoise(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """(n, patches, channels per patch)."""
        pipeline, tokens = self.pipeline, conditioning.tokens
        output: Tensor = self.module(
            hidden_states=pipeline._pack_latents(latents),
            timestep=timestep.expand(len(latents)).to(latents.dtype) / 1000,
            encoder_hidden_states=tokens,
            txt_ids=pipeline._prepare_text_ids(tokens).to(self.device),
            img_ids=pipeline._prepare_latent_ids(latents).to(self.device),
            return_dict=False,
        )[0]
        return output

    @property
    def _side(self) -> int:
        """Side of the image in patches, which are the places of its latents."""
        return super()._side // 2
