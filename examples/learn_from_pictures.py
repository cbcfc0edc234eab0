"""Learn a map from pictures in place of prompts, on a pipeline that is in memory.

The embedded model draws from pure noise in one step and cannot be shown a picture, so a small
diffusion model is made first. It stands for a pipeline of your own, however you made it.
"""

from dataclasses import replace

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL.Image import Image

import lineas_core as lc

THINGS = ["a lion", "an owl", "a house", "a rose", "a car", "a rocket", "a guitar", "a boat"] * 3
STEPS = 10

embedded = lc.load_model("emoji-onestep", device="cpu")
plain = embedded.generate(THINGS, seed=range(24))
neon = embedded.generate([f"{thing}, neon cyberpunk" for thing in THINGS], seed=range(24, 48))


def make_pipeline(pictures: list[Image]) -> StableDiffusionPipeline:
    """Train a UNet of a million weights to denoise pictures, with the embedded model's VAE."""
    torch.manual_seed(0)
    parts = dict(embedded.pipeline.components)
    unet = parts["unet"] = UNet2DConditionModel(
        sample_size=16,
        in_channels=16,
        out_channels=16,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=parts["text_encoder"].config.hidden_size,
    )
    scheduler = parts["scheduler"] = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        latents = pipe.vae.encode(pipe.image_processor.preprocess(pictures)).latents
        nothing, _ = pipe.encode_prompt([""] * 16, "cpu", 1, False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    for _ in range(400):
        chosen = latents[torch.randint(0, len(latents), (16,))]
        timesteps, noise = torch.randint(0, 1000, (16,)), torch.randn_like(chosen)
        noised = scheduler.add_noise(chosen, noise, timesteps)
        found = unet(noised, timesteps, encoder_hidden_states=nothing).sample
        optimizer.zero_grad()
        (found - noise).square().mean().backward()
        optimizer.step()
    return pipe


def brightness(pictures: list[Image]) -> float:
    """Mean of all pixels, 0 to 255."""
    return float(np.mean([np.asarray(picture).mean() for picture in pictures]))


pipe = make_pipeline(plain + neon)
model = lc.load_model(pipe)
model.schedule = replace(model.schedule, steps=STEPS)
looks = lc.ImageSet(source=plain, target=neon, concept="neon")
# A place of a picture may lie beyond all of the means over places that the map is fitted on, so the
# map acts without bounds.
smap = lc.fit("lin-act", model, looks, lc.TrainConfig(order="parallel", bounds="none"))
print(f"brightness of source and target: {brightness(plain):.1f} {brightness(neon):.1f}")

for strength in (-1.0, -0.5, 0.0, 0.5, 1.0):
    # The pipeline is called as ever; `pipe.unet` could be steered as well.
    with lc.steer(pipe, [(smap, strength)]):
        pictures = pipe(
            [""] * 8,
            num_inference_steps=STEPS,
            guidance_scale=0.0,
            generator=[torch.Generator().manual_seed(seed) for seed in range(8)],
        ).images
    print(f"strength {strength:+.1f}: brightness {brightness(pictures):.1f}")
