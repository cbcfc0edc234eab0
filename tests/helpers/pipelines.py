"""Small pipelines of the real classes, with random weights, saved to disk."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tests.helpers.networks import lively
from tests.helpers.transformer_pipelines import (
    small_klein,
    small_qwen_image,
    small_sana,
    small_z_image,
)

LETTERS = list(string.ascii_lowercase)
SIZE = 16
# Side of a small pipeline's images.
SIZES: Mapping[str, int] = defaultdict(lambda: SIZE, {"sana": 32, "z-image": 48})
# How many tokens its text encoder reads, where that can be chosen.
TOKENS: Mapping[str, int] = defaultdict(lambda: 12, {"z-image": 160, "qwen": 140})
# Name, of the catalogue where it has one -> the small pipeline that stands in for its weights.
KINDS = {
    "emoji-onestep": "sd",
    "sd-turbo": "turbo",
    "dmd2-sdxl-1step": "xl",
    "dmd2-sdxl-4step": "xl",
    "sdxl-lightning-1step": "xl",
    "sdxl-lightning-4step": "xl",
    "sdxl-turbo": "xl",
    "flux.1-schnell": "flux",
    "flux.2-klein-4b": "klein",
    "sana-sprint-0.6b": "sana",
    "sana-sprint-1.6b": "sana",
    "z-image-turbo": "z-image",
    "qwen-image-lightning-4step": "qwen",
}


def clip_tokenizer() -> CLIPTokenizer:
    """A tokenizer with one token per letter, at most 16 tokens per text."""
    symbols = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(c + "</w>" for c in LETTERS)]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def small_unet(**changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return lively(UNet2DConditionModel(**{**settings, **changes}))


def small_unet_xl() -> UNet2DConditionModel:
    return small_unet(
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )


def small_vae(**changes: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=SIZE,
        **changes,
    )


def small_tiny_vae() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def small_sd(unet: UNet2DConditionModel | None = None) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=small_tiny_vae(),
        text_encoder=lively(CLIPTextModel(clip_config())),
        tokenizer=clip_tokenizer(),
        unet=unet or small_unet(),
        scheduler=LCMScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def small_turbo() -> StableDiffusionPipeline:
    pipeline = small_sd(small_unet(time_cond_proj_dim=8))
    pipeline.scheduler = EulerAncestralDiscreteScheduler(
        timestep_spacing="trailing", steps_offset=1
    )
    return pipeline


def small_xl() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=small_vae(),
        text_encoder=lively(CLIPTextModel(clip_config())),
        text_encoder_2=lively(CLIPTextModelWithProjection(clip_config())),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=small_unet_xl(),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_end=0.012, steps_offset=1
        ),
        add_watermarker=False,
    )


def small_flux(guidance_embeds: bool = False) -> FluxPipeline:
    t5 = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=small_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=lively(CLIPTextModel(clip_config())),
        tokenizer=clip_tokenizer(),
        text_encoder_2=lively(T5EncoderModel(t5)),
        tokenizer_2=T5TokenizerFast(vocab=vocab + [(c, -1.0) for c in LETTERS], extra_ids=0),
        transformer=lively(
            FluxTransformer2DModel(
                in_channels=16,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                pooled_projection_dim=16,
                axes_dims_rope=(2, 2, 4),
                guidance_embeds=guidance_embeds,
            )
        ),
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "sd": small_sd,
    "turbo": small_turbo,
    "xl": small_xl,
    "flux": small_flux,
    "klein": small_klein,
    "sana": small_sana,
    "z-image": small_z_image,
    "qwen": small_qwen_image,
}


def save_small_pipelines(root: Path) -> dict[str, Path]:
    """Save one folder per kind, and the weights that the catalogue's models load into them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for kind, build in BUILDERS.items():
            variant = "fp16" if kind == "xl" else None
            build().save_pretrained(root / kind, variant=variant)
        small_flux(guidance_embeds=True).save_pretrained(root / "flux-guided")
        small_tiny_vae().save_pretrained(root / "taesd")
    return {path.name: path for path in root.iterdir()}


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pixels(images: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=int) for image in images])


class Touch:
    """When unpickled, creates a file, which proves that code was executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Spy:
    """Records the arguments and the output of each call of a network."""

    def __init__(self, network: nn.Module) -> None:
        self.calls: list[tuple[dict[str, Any], Tensor]] = []
        network.register_forward_hook(self._record, with_kwargs=True)

    def _record(self, network: Any, args: tuple, kwargs: dict, output: Any) -> None:
        named = {**dict(zip(("sample", "timestep"), args, strict=False)), **kwargs}
        self.calls.append((flat(named), output[0]))


def flat(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            tensors |= flat(value)
        elif isinstance(value, list):
            tensors |= flat({f"{name}.{i}": part for i, part in enumerate(value)})
        elif isinstance(value, Tensor):
            tensors[name] = value
    return tensors
