"""Pictures as inputs of the denoiser: scaled, encoded by the VAE, noised by the scheduler."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from math import hypot
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageOps
from torch import Tensor

from lineas_core.models.image.conditioning import Conditioning
from lineas_core.models.image.denoisers import Denoiser
from lineas_core.models.image.schedule import Schedule
from lineas_core.prompts.image_set import Picture

log = logging.getLogger(__name__)

# Least ratio of the picture's amplitude to the noise's at a timestep of the model's own steps.
LEAST_PICTURE = 0.5
# Share of the schedule if none of them leaves so much of it: the mean of the uniform distribution
# that image sliders draw timesteps from.
MIDDLE = 0.5
# Error, as a share of the variance, of a denoiser that puts out the mean over all pictures.
UNSEEN = 1.0
WHITE = (255, 255, 255)


class NoisedPictures(NamedTuple):
    """The denoiser's input for n pictures, and what it would put out if it knew them.

    Attributes:
        latents: (n, ...) in the denoiser's dtype.
        timesteps: (n,)
        outputs: like `latents`.
    """

    latents: Tensor
    timesteps: Tensor
    outputs: Tensor


def noised_pictures(
    denoiser: Denoiser, pictures: Sequence[Picture], noise: Tensor, schedule: Schedule
) -> NoisedPictures:
    """Encode pictures and noise them.

    Pictures are encoded one by one: at full size, the VAE's activations are far larger than those
    of the denoiser.

    Args:
        denoiser: of the model.
        pictures: n pictures.
        noise: (n, ...) of unit variance, as from `denoiser.noise`.
        schedule: the model's own steps.
    """

    @cache
    def level(share: float | None) -> tuple[Any, Tensor]:
        return noise_level(denoiser, share, noise, schedule)

    rows = []
    for picture, own in zip(pictures, noise.to(denoiser.device).split(1), strict=True):
        scheduler, timestep = level(picture.noise)
        latents = encode_picture(denoiser, picture.image)
        mixed = mix(scheduler, latents, own, timestep)
        if hasattr(scheduler, "scale_model_input"):
            mixed = scheduler.scale_model_input(mixed, timestep)
        output = true_output(scheduler, latents, own, timestep)
        rows.append((mixed.to(denoiser.module.dtype), timestep[None], output))
    return NoisedPictures(*map(torch.cat, zip(*rows, strict=True)))


def warn_if_unseen(
    id: str,
    denoiser: Denoiser,
    noised: NoisedPictures,
    conditioning: Conditioning,
    schedule: Schedule,
) -> None:
    """Warn if the denoiser restores nothing of the pictures.

    It is then one that was only ever trained on pure noise, to draw in one step, and takes a
    picture for noise that asks for something else. A single picture has no variance to compare
    with, so nothing is said of it.
    """
    if len(noised.outputs) < 2:
        return
    errors = []
    for i, wanted in enumerate(noised.outputs):
        row = torch.tensor([i], device=noised.latents.device)
        found = denoiser.denoise(
            noised.latents[row], noised.timesteps[row], conditioning.rows(row), schedule.guidance
        )
        errors.append((found[0].float() - wanted).square().mean())
    error = float(torch.stack(errors).mean() / noised.outputs.var(dim=0).mean())
    if error >= UNSEEN:
        log.warning(
            f"{id} restores nothing of the noised pictures (its error is {error:.2g} of their "
            "variance), as one that draws from pure noise in one step. A map from pictures may "
            "lead anywhere on it; learn one from prompts."
        )


def true_output(scheduler: Any, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """What the denoiser is trained to put out for these latents and this noise."""
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if kind == "sample":
        return latents
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        ratio = picture_to_noise(scheduler, timestep)
        return (ratio * noise - latents) / hypot(ratio, 1)
    return noise - latents


def encode_picture(denoiser: Denoiser, image: Image.Image) -> Tensor:
    """Float32 latents of one picture, (1, ...) as the denoiser takes them.

    The picture is turned upright, put on white where it is transparent, and scaled and cropped to
    the model's size.
    """
    upright = ImageOps.exif_transpose(image).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", upright.size, (*WHITE, 255)), upright)
    size = denoiser.size
    square = ImageOps.fit(flat.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    pixels: Tensor = denoiser.pipeline.image_processor.preprocess(square)
    vae, config = denoiser.pipeline.vae, denoiser.pipeline.vae.config
    # A VAE that overflows in float16 says so; pipelines of diffusers decode likewise.
    upcast = vae.dtype == torch.float16 and config.get("force_upcast")
    if upcast:
        vae.to(torch.float32)
    try:
        encoded = vae.encode(pixels.to(denoiser.device, vae.dtype))
    finally:
        if upcast:
            vae.to(torch.float16)
    # A small VAE has one value per latent, and the full one a distribution.
    found = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    latents: Tensor = found.float()
    if config.get("latents_mean") and config.get("latents_std"):
        mean, std = (
            latents.new_tensor(config[name]).view(1, -1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        latents = (latents - mean) / std
    else:
        latents = latents - (config.get("shift_factor") or 0.0)
    return denoiser.packed(latents * config.scaling_factor)


def noise_level(
    denoiser: Denoiser, share: float | None, noise: Tensor, schedule: Schedule
) -> tuple[Any, Tensor]:
    """A scheduler that was started, and the timestep of its own to which pictures are noised.

    Args:
        denoiser: of the model.
        share: of the schedule, as `ImageSet.noise`.
        noise: as from `denoiser.noise`; its shape counts.
        schedule: the model's own steps.
    """
    if share is None:
        scheduler = denoiser.started(noise, schedule)
        for timestep in scheduler.timesteps:
            if picture_to_noise(scheduler, timestep) >= LEAST_PICTURE:
                return scheduler, timestep
        share = MIDDLE
    count = denoiser.pipeline.scheduler.config.num_train_timesteps
    wanted = max(1, round(share * count)) - 1
    if denoiser.takes_timesteps:
        every = Schedule(1, (wanted,), schedule.guidance)
    else:
        every = Schedule(count, (), schedule.guidance)
    scheduler = denoiser.started(noise, every)
    nearest = (scheduler.timesteps - wanted).abs().argmin()
    return scheduler, scheduler.timesteps[nearest]


def picture_to_noise(scheduler: Any, timestep: Tensor) -> float:
    """Ratio of the amplitudes of picture and noise at a timestep."""
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    picture = float(mix(scheduler, one, zero, timestep))
    noise = float(mix(scheduler, zero, one, timestep))
    return picture / noise if noise else float("inf")


def mix(scheduler: Any, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Latents and noise, (n, ...), as strong as the scheduler has them at a timestep."""
    each = timestep.expand(len(latents))
    # Schedulers of flow matching have another name and order for the same.
    if hasattr(scheduler, "scale_noise"):
        mixed: Tensor = scheduler.scale_noise(latents, each, noise)
    else:
        mixed = scheduler.add_noise(latents, noise, each)
    return mixed
