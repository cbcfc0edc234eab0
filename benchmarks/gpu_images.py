"""A training step of SDXL's UNet on a GPU, with random bfloat16 weights and latents.

The figure is the share of the GPU's peak matrix product rate. The work is what torch counts for the
products and convolutions of a forward pass and of the gradient to its input, as weights have none.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lineas_core as lc
from benchmarks.machine import extent, matrix_rate, report, watched_memory
from lineas_core.models.shared.sites import match_sites

PROMPTS, BATCH, WARM_UP = 16, 4, 10
# From the config.json of stabilityai/stable-diffusion-xl-base-1.0.
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TINY: dict[str, Any] = {
    **SDXL,
    "sample_size": 16,
    "block_out_channels": (32, 32, 64),
    "cross_attention_dim": 16,
    "attention_head_dim": (2, 2, 4),
    "transformer_layers_per_block": 1,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}


@dataclass(frozen=True)
class Latents:
    """Random inputs of the UNet; see `lineas_core.steerable.Inputs`."""

    latents: Tensor
    tokens: Tensor
    text: Tensor
    mask: None = None
    packing: None = None

    def __len__(self) -> int:
        return len(self.latents)

    def mask_at(self, tokens: int) -> None:
        """None, as nothing is padding."""

    def rows(self, indices: Sequence[int] | Tensor) -> Latents:
        """The inputs at `indices`."""
        chosen = torch.as_tensor(indices, device=self.latents.device)
        return Latents(self.latents[chosen], self.tokens[chosen], self.text[chosen])


class UNet:
    """SDXL's UNet as a model to steer and to train maps on, without a pipeline around it."""

    id = "SDXL"
    default_sites = "norm"
    train_defaults: Mapping[str, Any] = {}

    def __init__(self, unet: nn.Module) -> None:
        # Sites begin with the name that the UNet has in a pipeline.
        self.unet, self.module = unet, nn.ModuleDict({"unet": unet})

    def sites(self, pattern: str) -> list[str]:
        """Names that match, as for models that are loaded."""
        names = [name for name, _ in self.module.named_modules()]
        return match_sites(names, pattern, type(self.unet).__name__)

    def prepare(self, prompts: Sequence[str]) -> Latents:
        """As many random inputs as prompts."""
        return sdxl_inputs(self.unet, len(prompts), next(self.unet.parameters()).device)

    def forward(self, inputs: Latents) -> None:
        """One pass."""
        run_unet(self.unet, inputs)

    def perplexity(self, prompts: Sequence[str]) -> None:
        """None, as for image models."""

    def continuations(self, contexts: Sequence[str], texts: Sequence[str]) -> None:
        """Refuse, as image models do."""
        raise lc.ConfigError("A UNet alone writes no text.")


def make_unet(device: torch.device, *, tiny: bool) -> UNet:
    """SDXL's UNet, or a tiny one of its kind, in bfloat16 and channels last."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    with device:
        unet = UNet2DConditionModel(**(TINY if tiny else SDXL))
    unet.to(torch.bfloat16).requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return UNet(unet)


def sdxl_inputs(unet: Any, count: int, device: torch.device) -> Latents:
    """Random inputs of `count` images."""
    made = {"device": device, "dtype": torch.bfloat16}
    config, side = unet.config, unet.config.sample_size
    text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return Latents(
        torch.randn(count, 4, side, side, **made),
        torch.randn(count, 77, config.cross_attention_dim, **made),
        torch.randn(count, text, **made),
    )


def run_unet(unet: Any, inputs: Latents) -> Tensor:
    """The UNet's output at timestep 399, which DMD2 runs at."""
    added = {"text_embeds": inputs.text, "time_ids": inputs.text.new_zeros(len(inputs), 6)}
    output: Tensor = unet(
        inputs.latents, 399, encoder_hidden_states=inputs.tokens, added_cond_kwargs=added
    ).sample
    return output


def measure_image_step(
    device: torch.device, steps: int, sizes: Sequence[int] | None, *, tiny: bool
) -> None:
    """Print the share of peak that a training step reaches at a batch of 4."""
    model = make_unet(device, tiny=tiny)
    numbers = [str(i) for i in range(PROMPTS)]
    prompts = lc.PromptSet(
        name="latents", source=numbers, target=[f"{n}." for n in numbers], modality="image"
    )
    config = lc.TrainConfig(
        optimizer="adamw", rate=5e-4, gamma=1e-4, holdout=0, batch_size=BATCH, steps=10_000
    )
    before = matrix_rate(torch.bfloat16, device, sizes)
    with watched_memory(device) as memory:
        trainer = lc.Trainer(model, prompts, config)
        running: Iterator[lc.StepEvent] = trainer.run()
        found = [event.seconds for event in islice(running, WARM_UP + steps)]
    times = [after - before for before, after in pairwise(found[WARM_UP - 1 :])]
    peak = max(before, matrix_rate(torch.bfloat16, device, sizes))
    work = count_flops(model, model.prepare(numbers[:BATCH]))
    shares = [work / seconds / peak for seconds in times]
    report(
        f"share of peak of a training step, SDXL's UNet, {BATCH} images of 1024 pixels, bfloat16",
        statistics.median(shares),
        spread=extent(shares),
        seeds=[0],
        device=device,
        sites=len(trainer.sites),
        step_seconds=extent(times),
        flops=work,
        peak_flops_per_second=[peak, peak],
        peak_mebibytes=memory.peak,
        growth_mebibytes=memory.growth,
        graph=trainer.graphed,
    )


def count_flops(model: UNet, inputs: Latents) -> int:
    """Floating-point operations of a forward pass and of the gradient to its input."""
    latents = inputs.latents.detach().requires_grad_()
    given = Latents(latents, inputs.tokens, inputs.text)
    with FlopCounterMode(display=False) as counter:
        run_unet(model.unet, given).sum().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())
