"""One face for the three kinds of pipeline: encode prompts, draw noise, denoise, generate.

`first_step` and `denoise` are the first step of the pipeline's own call, but differentiable; the
images themselves come from that call.
"""

from __future__ import annotations

import copy
import inspect
import logging
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import FluxPipeline, StableDiffusionXLPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image
from torch import Tensor

from lineas_core.models.image.conditioning import Conditioning, Schedule

# Distilled models run at timesteps that are none of the scheduler's own, on purpose.
logging.getLogger("diffusers.schedulers.scheduling_lcm").addFilter(
    lambda record: "custom timestep schedule" not in record.getMessage()
)


class Denoiser(ABC):
    """A pipeline, and the side of the images it makes.

    Args:
        pipeline: of diffusers.
        size: pixels a side; 0 takes the pipeline's own.
        tokens: that FLUX's second text encoder reads; 0 takes the pipeline's own 512.
    """

    default_guidance: ClassVar[float] = 0.0

    def __init__(self, pipeline: Any, size: int = 0, tokens: int = 0) -> None:
        self.pipeline = pipeline
        self.size = size or self._own_size() * pipeline.vae_scale_factor
        self.tokens = tokens or 512

    @property
    @abstractmethod
    def module(self) -> Any:
        """The UNet or transformer."""

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs, wherever its weights wait."""
        device: torch.device = self.pipeline._execution_device
        return device

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """Each tokenizer, and the tokens its text encoder reads."""
        names = [name for name in ("tokenizer", "tokenizer_2") if hasattr(self.pipeline, name)]
        tokenizers = [getattr(self.pipeline, name) for name in names]
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in tokenizers]

    @property
    def takes_timesteps(self) -> bool:
        """Whether the steps can be at other timesteps than the scheduler's own."""
        return "timesteps" in inspect.signature(self.pipeline.scheduler.set_timesteps).parameters

    @abstractmethod
    def encode(self, prompts: list[str]) -> Conditioning:
        """Prompts through the text encoders, differentiably."""

    @abstractmethod
    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """The first noise, one image for each generator, in float32 on the CPU."""

    @abstractmethod
    def first_step(self, noise: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """What the denoiser sees in the first step: its input, and the timestep."""

    @abstractmethod
    def denoise(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """The denoiser's output, differentiably."""

    def call(
        self,
        conditioning: Conditioning,
        noise: Tensor,
        generators: list[torch.Generator],
        schedule: Schedule,
    ) -> list[Image]:
        """The pipeline's own call; `generators` give the noise of later steps."""
        settings: dict[str, Any] = {}
        if conditioning.pooled is not None:
            settings["pooled_prompt_embeds"] = conditioning.pooled
        if schedule.timesteps:
            settings["timesteps"] = list(schedule.timesteps)
        images: list[Image] = self.pipeline(
            prompt_embeds=conditioning.tokens,
            latents=noise.to(self.device, self.module.dtype),
            generator=generators,
            num_inference_steps=schedule.steps,
            guidance_scale=schedule.guidance,
            height=self.size,
            width=self.size,
            output_type="pil",
            **settings,
        ).images
        return images

    @abstractmethod
    def _own_size(self) -> int:
        """Side of the latents that the pipeline was made for."""


class UNetDenoiser(Denoiser):
    """A StableDiffusionPipeline."""

    @property
    def module(self) -> Any:
        """The UNet."""
        return self.pipeline.unet

    def encode(self, prompts: list[str]) -> Conditioning:
        """One text encoder."""
        tokens, _ = self.pipeline.encode_prompt(prompts, self.device, 1, False)
        return Conditioning(tokens, None)

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """(n, channels, height, width)."""
        side = self.size // self.pipeline.vae_scale_factor
        shape = (len(generators), self.pipeline.unet.config.in_channels, side, side)
        noise: Tensor = randn_tensor(shape, generators, torch.device("cpu"), torch.float32)
        return noise

    def first_step(self, noise: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """Noise as the scheduler scales it."""
        # A scheduler counts its steps, so the pipeline's own is left alone.
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        timesteps, _ = retrieve_timesteps(
            scheduler, schedule.steps, self.device, list(schedule.timesteps) or None
        )
        latents = noise.to(self.device, self.module.dtype) * scheduler.init_noise_sigma
        scaled: Tensor = scheduler.scale_model_input(latents, timesteps[0])
        return scaled, timesteps[0]

    def denoise(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """(n, channels, height, width)."""
        output: Tensor = self.module(
            latents,
            timestep,
            encoder_hidden_states=conditioning.tokens,
            timestep_cond=self._guidance_condition(latents, guidance),
            added_cond_kwargs=self._added_conditions(conditioning),
            return_dict=False,
        )[0]
        return output

    def _guidance_condition(self, latents: Tensor, guidance: float) -> Tensor | None:
        width = self.pipeline.unet.config.time_cond_proj_dim
        if width is None:
            return None
        scales = torch.full((len(latents),), guidance - 1.0)
        embedding: Tensor = self.pipeline.get_guidance_scale_embedding(scales, embedding_dim=width)
        return embedding.to(latents)

    def _added_conditions(self, conditioning: Conditioning) -> dict[str, Tensor] | None:
        return None

    def _own_size(self) -> int:
        side = self.pipeline.unet.config.sample_size
        return int(side if isinstance(side, int) else side[0])


class UNetXLDenoiser(UNetDenoiser):
    """A StableDiffusionXLPipeline."""

    def encode(self, prompts: list[str]) -> Conditioning:
        """Two text encoders side by side, and the pooled vector of the second."""
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return Conditioning(tokens, pooled)

    def _added_conditions(self, conditioning: Conditioning) -> dict[str, Tensor] | None:
        # Original height and width, top and left of the crop, target height and width.
        sizes = [[self.size, self.size, 0, 0, self.size, self.size]] * len(conditioning.tokens)
        time_ids = torch.tensor(sizes).to(conditioning.tokens)
        assert conditioning.pooled is not None
        return {"text_embeds": conditioning.pooled, "time_ids": time_ids}


class FluxDenoiser(Denoiser):
    """A FluxPipeline. Its latents are sequences of 2 x 2 patches."""

    default_guidance = 3.5

    @property
    def module(self) -> Any:
        """The transformer."""
        return self.pipeline.transformer

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """CLIP's tokenizer, and T5's."""
        return [
            (self.pipeline.tokenizer, self.pipeline.tokenizer_max_length),
            (self.pipeline.tokenizer_2, self.tokens),
        ]

    @property
    def takes_timesteps(self) -> bool:
        """The pipeline takes none."""
        return False

    def encode(self, prompts: list[str]) -> Conditioning:
        """The tokens of T5, and the pooled vector of CLIP."""
        tokens, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, device=self.device, max_sequence_length=self.tokens
        )
        return Conditioning(tokens, pooled)

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """(n, patches, channels of a patch)."""
        return self._latents(len(generators), torch.float32, "cpu", generators=generators)[0]

    def first_step(self, noise: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """Noise as it is, and the first timestep that the number of patches asks for."""
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        config = scheduler.config
        timesteps, _ = retrieve_timesteps(
            scheduler,
            schedule.steps,
            self.device,
            sigmas=np.linspace(1.0, 1 / schedule.steps, schedule.steps).tolist(),
            mu=calculate_shift(
                noise.shape[1],
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
                config.get("base_shift", 0.5),
                config.get("max_shift", 1.15),
            ),
        )
        return noise.to(self.device, self.module.dtype), timesteps[0]

    def denoise(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, guidance: float
    ) -> Tensor:
        """(n, patches, channels of a patch)."""
        count, dtype = len(latents), latents.dtype
        scales = torch.full((count,), guidance, device=self.device)
        output: Tensor = self.module(
            hidden_states=latents,
            timestep=timestep.expand(count).to(dtype) / 1000,
            guidance=scales if self.pipeline.transformer.config.guidance_embeds else None,
            pooled_projections=conditioning.pooled,
            encoder_hidden_states=conditioning.tokens,
            txt_ids=torch.zeros(conditioning.tokens.shape[1], 3, device=self.device, dtype=dtype),
            img_ids=self._latents(count, dtype, self.device, latents=latents)[1],
            return_dict=False,
        )[0]
        return output

    def _latents(
        self,
        count: int,
        dtype: torch.dtype,
        device: torch.device | str,
        generators: list[torch.Generator] | None = None,
        latents: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Packed latents, drawn or as they are, and the place of each patch."""
        packed: tuple[Tensor, Tensor] = self.pipeline.prepare_latents(
            count,
            self.pipeline.transformer.config.in_channels // 4,
            self.size,
            self.size,
            dtype,
            torch.device(device),
            generators,
            latents,
        )
        return packed

    def _own_size(self) -> int:
        return int(self.pipeline.default_sample_size)


def denoiser_for(pipeline: Any, size: int = 0, tokens: int = 0) -> Denoiser:
    """The face of a pipeline; `size` and `tokens` as for `Denoiser`."""
    if isinstance(pipeline, FluxPipeline):
        return FluxDenoiser(pipeline, size, tokens)
    if isinstance(pipeline, StableDiffusionXLPipeline):
        return UNetXLDenoiser(pipeline, size)
    return UNetDenoiser(pipeline, size)
