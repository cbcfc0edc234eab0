"""Maps from pictures: their latents against diffusers' own, and what the maps do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

import lineas_core as lc
from lineas_core.diagnostics.distance import TargetDistance
from lineas_core.diagnostics.strength import recommend_strength
from lineas_core.methods.variants.refine import Refinement
from lineas_core.models.image.model import NOISE_SEED, DiffusionModel
from lineas_core.models.image.pictures import encode_picture, picture_to_noise
from lineas_core.models.image.schedule import Schedule
from lineas_core.prompts.image_set import Picture
from tests.helpers.pipelines import BUILDERS, SIZE, generators, pixels, small_vae

# diffusers' Euler schedulers convert tensors to arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
SIDE = SIZE // 2


def drawings(count: int, base: tuple[int, int, int], size: int = SIZE) -> list[Image.Image]:
    """Pictures of some random colours around a base."""
    generator = np.random.default_rng(sum(base))
    noise = generator.integers(-60, 61, (count, size, size, 3))
    values = np.clip(np.array(base) + noise, 0, 255).astype(np.uint8)
    return [Image.fromarray(value) for value in values]


def built(kind: str) -> DiffusionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = lc.load_model(BUILDERS[kind]())
    assert isinstance(model, DiffusionModel)
    model.pipeline.set_progress_bar_config(disable=True)
    # The smallest FLUX draws pictures of 256 x 256.
    model._denoiser.size = SIZE
    return model


IMG2IMG = {
    "sd": StableDiffusionImg2ImgPipeline,
    "turbo": StableDiffusionImg2ImgPipeline,
    "xl": StableDiffusionXLImg2ImgPipeline,
}


@pytest.mark.parametrize("kind", ["sd", "turbo", "xl"])
@pytest.mark.parametrize("noise", [0.25, 0.7])
def test_latents_are_those_of_diffusers_own_image_to_image(kind: str, noise: float) -> None:
    model = built(kind)
    pipe = model.pipeline
    image = drawings(1, (90, 120, 200))[0]
    inputs = model.prepare([Picture(image, "abc", noise)])
    (timestep,) = inputs.timestep
    assert abs(float(timestep) - noise * 1000) <= 2
    other = IMG2IMG[kind](
        **{k: v for k, v in pipe.components.items() if k != "scheduler"},
        scheduler=pipe.scheduler,
        **({"requires_safety_checker": False} if kind != "xl" else {"add_watermarker": False}),
    )
    plain = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    encoded = other.vae.encode(plain)
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    scheduler = other.scheduler
    if kind == "sd":
        scheduler.set_timesteps(timesteps=[int(timestep)])
    else:
        scheduler.set_timesteps(1000)
    mixed = scheduler.add_noise(
        latents * other.vae.config.scaling_factor,
        torch.randn(1, 4, SIDE, SIDE, generator=generators([NOISE_SEED])[0]),
        timestep[None],
    )
    torch.testing.assert_close(inputs.latents, scheduler.scale_model_input(mixed, timestep))


def test_latents_of_flux_are_shifted_scaled_packed_and_mixed() -> None:
    model = built("flux")
    image = drawings(1, (90, 120, 200))[0]
    inputs = model.prepare([Picture(image, "abc", 0.6)])
    other = FluxImg2ImgPipeline(**model.pipeline.components)
    plain = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    mode = other.vae.encode(plain).latent_dist.mode()
    config = other.vae.config
    latents = (mode - config.shift_factor) * config.scaling_factor
    sigma = float(inputs.timestep) / 1000
    assert sigma == pytest.approx(0.6, abs=2e-3)
    noise = torch.randn(1, 4, SIDE, SIDE, generator=generators([NOISE_SEED])[0])
    mixed = other._pack_latents(sigma * noise + (1 - sigma) * latents, 1, 4, SIDE, SIDE)
    torch.testing.assert_close(inputs.latents, mixed)


@pytest.mark.parametrize(
    ("steps", "timesteps", "wanted"),
    [(1, (399,), 399), (1, (999,), 499), (3, (999, 749, 499), 499), (2, (450, 300), 450)],
)
def test_the_timestep_is_the_models_first_that_leaves_a_picture(
    steps: int, timesteps: tuple[int, ...], wanted: int
) -> None:
    model = built("sd")
    model.schedule = Schedule(steps, timesteps, 0.0)
    inputs = model.prepare([Picture(image) for image in drawings(2, (90, 90, 90))])
    assert inputs.timestep.tolist() == [wanted, wanted]
    scheduler = model.pipeline.scheduler
    amplitude = scheduler.alphas_cumprod.double().sqrt()
    ratio = picture_to_noise(scheduler, torch.tensor(wanted))
    assert ratio == pytest.approx(float(amplitude[wanted] / (1 - amplitude[wanted] ** 2).sqrt()))


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(),
        PNDMScheduler(skip_prk_steps=True),
        DPMSolverMultistepScheduler(),
        EulerDiscreteScheduler(use_karras_sigmas=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_every_scheduler_noises_to_the_share_that_is_asked_for(scheduler: Any) -> None:
    model = built("sd")
    model.pipeline.scheduler = scheduler
    image = drawings(1, (90, 90, 90))[0]
    latents = encode_picture(model._denoiser, image)
    noise = torch.randn(1, 4, SIDE, SIDE, generator=generators([NOISE_SEED])[0])
    both = torch.stack([latents.flatten(), noise.flatten()], dim=1)
    for share in (0.02, 0.4, 1.0):
        inputs = model.prepare([Picture(image, noise=share)])
        step = float(inputs.timestep)
        assert step == pytest.approx(1000 * share, abs=12)
        kept, added = torch.linalg.lstsq(both, inputs.latents.flatten()[:, None]).solution[:, 0]
        alpha = scheduler.alphas_cumprod[round(step)].double()
        assert float(added / kept) == pytest.approx(float(((1 - alpha) / alpha).sqrt()), rel=0.05)


def test_a_picture_is_turned_upright_put_on_white_and_cropped() -> None:
    model = built("sd")
    wide = Image.new("RGB", (3 * SIZE, SIZE), (255, 0, 0))
    wide.paste((0, 0, 255), (SIZE, 0, 2 * SIZE, SIZE))
    plain = Image.new("RGB", (SIZE, SIZE), (0, 0, 255))
    white = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    turned, upright = (Image.new("RGB", (SIZE, SIZE), (0, 0, 0)) for _ in range(2))
    turned.paste((255, 0, 0), (0, 0, SIZE, SIDE))
    turned.getexif()[0x0112] = 3
    upright.paste((255, 0, 0), (0, SIDE, SIZE, SIZE))
    pairs = [
        (wide, plain),
        (Image.new("RGBA", (SIZE, SIZE), (9, 9, 9, 0)), white),
        (turned, upright),
        (plain.convert("P"), plain),
        (white.convert("L").resize((SIDE, SIDE)), white),
    ]
    for given, same in pairs:
        latents = encode_picture(model._denoiser, given)
        torch.testing.assert_close(latents, encode_picture(model._denoiser, same))


def test_a_vae_that_overflows_in_half_precision_runs_in_full_and_is_put_back() -> None:
    model = built("xl")
    image = drawings(1, (90, 120, 200))[0]
    wanted = encode_picture(model._denoiser, image)
    vae = model.pipeline.vae.half()
    seen: list[torch.dtype] = []
    vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    assert isinstance(vae, AutoencoderKL)
    assert vae.config.force_upcast
    torch.testing.assert_close(encode_picture(model._denoiser, image), wanted, atol=0.02, rtol=0.02)
    assert (seen, vae.dtype) == ([torch.float32], torch.float16)


def test_latents_that_are_normalised_by_channel_are() -> None:
    model = built("xl")
    image = drawings(1, (90, 120, 200))[0]
    plain = encode_picture(model._denoiser, image)
    mean, std = [0.5, 0.0, -1.0, 2.0], [1.0, 2.0, 0.5, 3.0]
    changed = small_vae(latents_mean=mean, latents_std=std)
    changed.load_state_dict(model.pipeline.vae.state_dict())
    model.pipeline.vae = changed.eval()
    factor = changed.config.scaling_factor
    by_hand = (plain / factor - torch.tensor(mean).view(1, 4, 1, 1)) * factor
    by_hand = by_hand / torch.tensor(std).view(1, 4, 1, 1)
    torch.testing.assert_close(encode_picture(model._denoiser, image), by_hand)


@pytest.fixture(scope="module")
def colours() -> lc.ImageSet:
    """More pictures of the source than of the target, of other sizes."""
    blue, red = drawings(8, (40, 60, 200), 24), drawings(6, (200, 60, 40))
    return lc.ImageSet(blue, red, name="red", concept="red", noise=0.05)


@pytest.mark.parametrize("kind", ["sd", "turbo", "xl", "flux"])
def test_a_map_learns_from_pictures_and_says_which(kind: str, colours: lc.ImageSet) -> None:
    model = built(kind)
    result = lc.train(model, colours, lc.TrainConfig(steps=20, holdout=0.34))
    assert result.losses[-1] < result.losses[0]
    assert result.health.training.ratio < 1
    info = result.map.info
    assert (info.prompt_hash, info.name, info.concept) == (colours.hash(), "red", "red")
    plain, steered = (
        pixels(model.generate(["abc"], [(result.map, s)], seed=1)) for s in (0.0, 1.0)
    )
    assert (plain != steered).any()


@pytest.mark.parametrize("method", ["lin-act", "mean-act", "iti-c", "aura", "actadd"])
def test_every_method_fits_pictures(method: str, colours: lc.ImageSet) -> None:
    model = built("sd")
    # The distance is to the untouched target, so that is where the maps have to lead.
    config = lc.TrainConfig(holdout=0.34, order="sequential-source")
    smap = lc.fit(method, model, colours, config)
    assert smap.info.prompt_hash == colours.hash()
    if method in ("lin-act", "mean-act"):
        _, held_out = colours.split(config.holdout, config.seed)
        assert TargetDistance(model, held_out, list(smap.sites)).left(smap)[0] < 0.95
        # By distance: there are no prompts to draw pictures of.
        found = recommend_strength(model, smap, held_out)
        assert (found.measure, found.strength is None) == ("distance", False)


def test_refinement_and_early_stops_take_pictures(colours: lc.ImageSet) -> None:
    model = built("sd")
    config = lc.TrainConfig(steps=4, holdout=0.34, order="parallel")
    stopped = lc.train_until(model, colours, config, every=2)
    first = lc.fit("mean-act", model, colours, config)
    loop = Refinement(model, [(stopped.map, colours), (first, colours)], config)
    # Pictures that both have are taken once.
    assert loop.counts[0] == len(colours.split(config.holdout, config.seed)[0].source)
    assert loop.step().loss > 0


def test_pictures_and_prompts_do_not_mix(colours: lc.ImageSet, tiny: lc.LanguageModel) -> None:
    model = built("sd")
    picture = colours.split(0, 0)[0].source[0]
    with pytest.raises(lc.PromptError, match="1 of 2 samples are pictures"):
        model.prepare([picture, "abc"])
    with pytest.raises(lc.PromptError, match="has 22 tokens"):
        model.prepare([Picture(picture.image, "abcdefghijklmnopqrst")])
    with pytest.raises(lc.PromptError, match="Prompt 1 is a Picture"):
        lc.train(tiny, colours)


@pytest.mark.embedded
def test_a_model_that_draws_from_pure_noise_only_says_that_it_sees_no_pictures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = lc.load_model("emoji-onestep", device="cpu")
    assert isinstance(model, DiffusionModel)
    lions = model.generate(["a lion"] * 4, seed=range(4))
    inputs = model.prepare([Picture(lion) for lion in lions])
    assert inputs.timestep.tolist() == [399] * 4
    assert "emoji-onestep restores nothing" in caplog.text


def test_a_denoiser_that_restores_the_pictures_gives_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two pictures that a UNet tells apart by their noised latents, in each kind of prediction."""
    images = drawings(2, (40, 60, 200))
    for kind in ("epsilon", "sample", "v_prediction"):
        model = built("sd")
        model.pipeline.scheduler = DDIMScheduler(prediction_type=kind)
        latents = torch.cat([encode_picture(model._denoiser, image) for image in images])
        noise = torch.cat(
            [
                torch.randn(1, 4, SIDE, SIDE, generator=generators([NOISE_SEED + i])[0])
                for i in range(2)
            ]
        )
        step = torch.tensor([499])
        noised = model.pipeline.scheduler.add_noise(latents, noise, step)
        outputs = {
            "epsilon": noise,
            "sample": latents,
            "v_prediction": model.pipeline.scheduler.get_velocity(latents, noise, step),
        }[kind]

        def oracle(
            z: torch.Tensor, *args: object, noised: Any = noised, outputs: Any = outputs
        ) -> torch.Tensor:
            nearest = (noised - z).square().flatten(1).sum(1).argmin()
            return outputs[nearest][None]

        monkeypatch.setattr(model._denoiser, "denoise", oracle)
        model.prepare([Picture(image, noise=0.5) for image in images])
        assert not caplog.text
