"""SANA-Sprint: a linear transformer that reads a Gemma 2's hidden states."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from lineas_core.models.image.conditioning import Conditioning
from lineas_core.models.image.denoisers import TransformerDenoiser
from lineas_core.models.image.schedule import Schedule

# Number of steps for which the scheduler takes a timestep between the first and the last.
STEPS_WITH_INTERMEDIATE = 2


class SanaSprintDenoiser(TransformerDenoiser):
    """A SanaSprintPipeline. Its noise levels are angles, and its guidance an input."""

    default_guidance = 4.5
    float32_latents = True

    def __init__(self, pipeline: Any, size: int = 0, tokens: int = 0) -> None:
        super().__init__(pipeline, size, tokens)
        self._defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(pipeline.__call__).parameters.items()
        }

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """Gemma's tokenizer. The instruction before the prompt takes one place, and its end one."""
        return [(self.pipeline.tokenizer, self.tokens - 2)]

    def encode(self, prompts: list[str]) -> Conditioning:
        """The prompt's tokens behind an instruction, padded to `tokens`, and their mask."""
        tokens, mask = self.pipeline.encode_prompt(
            prompts,
            device=self.device,
            max_sequence_length=self.tokens,
            complex_human_instruction=self._defaults["complex_human_instruction"],
        )
        return Conditioning(tokens, mask=mask)

    def started(self, noise: Tensor, schedule: Schedule) -> Any:
        """With angles as timesteps."""
        return self.own_scheduler(
            schedule.steps, intermediate_timesteps=self._intermediate(schedule)
        )

    def first_step(self, noise: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """The scaled noise, and sin(t) / (cos(t) + sin(t)) of the first angle t."""
        angle = self.started(noise, schedule).timesteps[0]
        timestep = torch.sin(angle) / (torch.cos(angle) + torch.sin(angle))
        latents = noise.to(self.device) * torch.sqrt(timestep**2 + (1 - timestep) ** 2)
        return latents.to(self.module.dtype), timestep

    def denoise(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """(n, channels, height, width)."""
        count, tokens = len(latents), conditioning.tokens
        scale = torch.full((count,), guidance, device=self.device, dtype=torch.float32)
        output: Tensor = self.module(
            latents,
            encoder_hidden_states=tokens.to(latents.dtype),
            encoder_attention_mask=conditioning.mask,
            guidance=scale.to(tokens.dtype) * self.module.config.guidance_embeds_scale,
            timestep=timestep.expand(count),
            return_dict=False,
        )[0]
        return output

    def _settings(self, schedule: Schedule) -> dict[str, Any]:
        # Any square size: the pipeline would turn it into the nearest of those it was trained at.
        return {
            **super()._settings(schedule),
            "use_resolution_binning": False,
            "intermediate_timesteps": self._intermediate(schedule),
        }

    def _intermediate(self, schedule: Schedule) -> float | None:
        two = schedule.steps == STEPS_WITH_INTERMEDIATE
        return self._defaults["intermediate_timesteps"] if two else None

    def _own_size(self) -> int:
        return int(self.module.config.sample_size)
