from __future__ import annotations

import re
import string
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

import lineas_core as lc
from lineas_core.activations import execution_order, pooled_forward
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.models.image.model import (
    NOISE_SEED,
    NUMBERS_A_PIXEL,
    DiffusionModel,
)
from lineas_core.models.shared.catalog import CatalogEntry, catalog
from lineas_core.steerable import Steerable
from tests.helpers.models import random_map
from tests.helpers.pipelines import (
    KINDS,
    SIZE,
    SIZES,
    Spy,
    generators,
    pixels,
    small_sd,
)

# diffusers' Euler schedulers convert tensors to arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PROMPTS = ["abc abc", "x", "a cab"]
# One model of each class of pipeline.
UNETS = ["emoji-onestep", "dmd2-sdxl-1step"]
TRANSFORMERS = [
    "flux.1-schnell",
    "flux.2-klein-4b",
    "sana-sprint-0.6b",
    "z-image-turbo",
    "qwen-image-lightning-4step",
]
# What a pipeline's call has to be told besides the catalogue's settings.
OWN_CALL: dict[str, dict[str, Any]] = {
    "SanaSprintPipeline": {"use_resolution_binning": False},
    "QwenImagePipeline": {"guidance_scale": None, "true_cfg_scale": 1.0},
}


def norm_map(model: DiffusionModel, pattern: str = "norm", spread: float = 0.5) -> lc.SteeringMap:
    widths: dict[str, int] = {}
    sites = execution_order(model, model.prepare(["a"]), model.sites(pattern))
    for name, z in pooled_forward(model, model.prepare(["a"]), sites).items():
        widths[name] = z.shape[1]
    return random_map(widths, 0, spread)


@pytest.mark.parametrize("name", [*KINDS, "guided"])
def test_the_first_step_is_that_of_the_pipelines_own_call(
    name: str, load: Any, small: dict[str, Path]
) -> None:
    if name == "guided":
        entry = replace(catalog()["flux.1-schnell"], size=SIZE, tokens=12, guidance=2.5, memory=0)
        pipeline = DiffusionPipeline.from_pretrained(small["flux-guided"])
        model = DiffusionModel("guided", pipeline, entry)
    else:
        model = load(name)
    settings: dict[str, Any] = dict(OWN_CALL.get(type(model.pipeline).__name__, {}))
    if model.schedule.timesteps:
        settings["timesteps"] = list(model.schedule.timesteps)
    if model._denoiser.tokens:
        settings["max_sequence_length"] = model._denoiser.tokens
    spy = Spy(model._denoiser.module)
    inputs = model.prepare(PROMPTS)
    model.forward(inputs)
    model.pipeline(
        # Z-Image writes into the list.
        prompt=list(PROMPTS),
        generator=generators([NOISE_SEED, NOISE_SEED + 1, NOISE_SEED + 2]),
        num_inference_steps=model.schedule.steps,
        height=model.size,
        width=model.size,
        **{"guidance_scale": model.schedule.guidance, **settings},
    )
    (ours, our_output), (theirs, their_output) = spy.calls[:2]
    assert len(spy.calls) == 1 + model.schedule.steps
    assert set(ours) == set(theirs)
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key])
    torch.testing.assert_close(our_output, their_output)
    assert not torch.equal(our_output[0], our_output[1])


@pytest.mark.parametrize("name", KINDS)
def test_every_model_of_the_catalogue_loads_steers_and_generates(name: str, load: Any) -> None:
    model = load(name)
    assert isinstance(model, Steerable)
    assert (model.modality, model.id, model.size) == ("image", name, SIZES[KINDS[name]])
    assert not any(p.requires_grad for p in model.module.parameters())
    assert not any(m.training for m in model.module.modules())
    smap = norm_map(model)
    plain = pixels(model.generate(PROMPTS, seed=1))
    assert plain.shape == (3, model.size, model.size, 3)
    assert (pixels(model.generate(PROMPTS, [(smap, 0.0)], seed=1)) == plain).all()
    assert (pixels(model.generate(PROMPTS, [(smap, 1.0)], seed=1)) != plain).any()


@pytest.mark.parametrize("name", ["dmd2-sdxl-1step", "dmd2-sdxl-4step"])
def test_dmd2_is_what_its_authors_recipe_gives(
    name: str, load: Any, entries: dict[str, CatalogEntry], small: dict[str, Path]
) -> None:
    entry = entries[name]
    unet = UNet2DConditionModel.from_config(
        UNet2DConditionModel.load_config(small["xl"], subfolder="unet")
    )
    assert entry.unet
    unet.load_state_dict(torch.load(Path(entry.unet.repo) / entry.unet.file))
    pipe = StableDiffusionXLPipeline.from_pretrained(small["xl"], unet=unet, variant="fp16")
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    timesteps = [399] if name == "dmd2-sdxl-1step" else [999, 749, 499, 249]
    wanted = pipe(
        prompt=PROMPTS,
        num_inference_steps=len(timesteps),
        guidance_scale=0,
        timesteps=timesteps,
        generator=generators([5, 6, 7]),
    ).images
    assert (pixels(load(name).generate(PROMPTS, seed=[5, 6, 7])) == pixels(wanted)).all()


@pytest.mark.parametrize(("name", "kind"), [("1step", "sample"), ("4step", "epsilon")])
def test_lightning_runs_eulers_trailing_steps(name: str, kind: str, load: Any) -> None:
    scheduler = load(f"sdxl-lightning-{name}").pipeline.scheduler
    assert isinstance(scheduler, EulerDiscreteScheduler)
    assert scheduler.config.timestep_spacing == "trailing"
    assert scheduler.config.prediction_type == kind
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


PARTS = r"(unet|transformer|text_encoder)(.*\.0)?\..*norm\d?"


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        *product([*UNETS, *TRANSFORMERS], ["norm"]),
        *product([*UNETS, "flux.1-schnell"], [PARTS, "text_norm"]),
        # Their text encoders have many layers, or read a long instruction before each prompt.
        *(pytest.param(n, PARTS, marks=pytest.mark.thorough) for n in TRANSFORMERS[1:-1]),
        # Its text encoder has a tower for images, which prompts do not reach.
        pytest.param("qwen-image-lightning-4step", "text_norm", marks=pytest.mark.thorough),
    ],
)
def test_a_map_trains_on_sites_of_any_part(
    name: str, pattern: str, load: Any, prompts: lc.PromptSet
) -> None:
    model = load(name)
    prompts = replace(prompts, modality="image")
    # On Qwen-Image's first norm, AdamW overshoots at first.
    steps = 10 if name == "qwen-image-lightning-4step" else 6
    config = lc.TrainConfig.for_model(
        model, steps=steps, rate=0.005, batch_size=8, gamma=0, sites=pattern
    )
    weights = {n: p.clone() for n, p in model.module.named_parameters()}
    result = lc.train(model, prompts, config)
    assert result.losses[-1] < result.losses[0]
    assert set(result.map.sites) == set(model.sites(pattern))
    assert result.health.surprise is None
    assert all(torch.equal(p, weights[n]) for n, p in model.module.named_parameters())
    plain, steered = model.sweep(["abc"], [(result.map, None)], [0, 1]).images[0]
    assert plain != steered
    fitted = lc.fit("lin-act", model, prompts, config)
    assert list(fitted.sites) == list(result.map.sites)


def test_embeddings_are_made_once_and_the_pass_ends_at_the_last_site(emoji: DiffusionModel) -> None:
    pipeline = emoji.pipeline
    # Forward hooks on a text encoder would make it run again, so count with a pre-hook.
    seen: list[int] = []
    pipeline.text_encoder.register_forward_pre_hook(lambda *_: seen.append(1))
    first, last = Spy(pipeline.unet.conv_in), Spy(pipeline.unet.conv_out)
    decoder = Spy(pipeline.vae.decoder)
    inputs = emoji.prepare(PROMPTS)
    for _ in range(3):
        pooled_forward(emoji, inputs, ["unet.mid_block.resnets.0.norm1"])
    assert (len(seen), len(first.calls)) == (1, 3)
    pooled_forward(emoji, inputs, ["text_encoder.final_layer_norm"])
    assert (len(seen), len(first.calls)) == (2, 3)
    assert last.calls == decoder.calls == []


@pytest.mark.parametrize("name", [*UNETS, *TRANSFORMERS])
def test_gradients_reach_text_encoders_from_the_denoiser(name: str, load: Any) -> None:
    model = load(name)
    inputs = model.prepare(PROMPTS)
    encoders = [n for n, _ in model.module.named_children() if n.startswith("text_encoder")]
    last = execution_order(model, inputs, model.sites("norm"))[-1]
    for encoder in encoders:
        site = next(s for s in model.sites("text_norm") if s.startswith(f"{encoder}."))
        width = pooled_forward(model, inputs, [site])[site].shape[1]
        affine = BatchAffine(*(torch.zeros(width, requires_grad=True) for _ in range(2)))
        found = pooled_forward(model, inputs, [site, last], maps={site: affine})
        found[last].square().mean().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in affine)


def test_a_map_on_a_text_encoder_acts_on_images_and_prepares_nothing(emoji: DiffusionModel) -> None:
    smap = norm_map(emoji, "text_norm", spread=2.0)
    assert (pixels(emoji.generate(PROMPTS, [(smap, 1.0)])) != pixels(emoji.generate(PROMPTS))).any()
    plain = emoji.prepare(PROMPTS)
    with lc.steer(emoji, [(smap, 1.0)]):
        steered = emoji.prepare(PROMPTS)
    assert torch.equal(plain.conditioning.tokens, steered.conditioning.tokens)


@pytest.mark.parametrize("name", ["dmd2-sdxl-4step", *TRANSFORMERS])
def test_noise_belongs_to_the_seed_whatever_the_batch(name: str, load: Any) -> None:
    model = load(name)
    smap, strengths = norm_map(model, spread=0.1), torch.linspace(0, 1, 4)
    texts, seeds = ["abc", "x", "abc", "a"], [3, 4, 3, 5]
    whole = pixels(model.generate(texts, [(smap, strengths)], seed=seeds))
    for settings in ({"batch_size": 1}, {"batch_size": 3}):
        parts = pixels(model.generate(texts, [(smap, strengths)], seed=seeds, **settings))
        assert np.abs(parts - whole).max() <= 1
    torch.manual_seed(0)
    same = pixels(model.generate(["abc", "abc"], seed=3))
    assert (same[0] == same[1]).all()
    assert (pixels(model.generate(["abc"], seed=4))[0] != same[0]).any()


def test_a_sweep_is_one_generation_per_strength(emoji: DiffusionModel) -> None:
    swept, fixed = norm_map(emoji, spread=0.3), norm_map(emoji, "text_norm")
    maps: list[Any] = [(swept, None), (fixed, 0.5)]
    grid = emoji.sweep(PROMPTS, maps, [0, 0.5, 1], seed=[5, 6, 7], batch_size=9)
    assert (grid.prompts, grid.strengths) == (PROMPTS, [0, 0.5, 1])
    for column, strength in enumerate(grid.strengths):
        wanted = emoji.generate(PROMPTS, [(swept, strength), (fixed, 0.5)], seed=[5, 6, 7])
        got = pixels([row[column] for row in grid.images])
        assert np.abs(got - pixels(wanted)).max() <= 1
    assert (pixels(grid.images[0])[0] != pixels(grid.images[0])[2]).any()
    plain = emoji.sweep(PROMPTS, [(swept, None)], [0, 1], seed=5)
    untouched = emoji.generate([p for p in PROMPTS for _ in range(2)], seed=5)
    assert (pixels([row[0] for row in plain.images]) == pixels(untouched[::2])).all()


def test_as_many_images_run_at_once_as_memory_holds(
    emoji: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    handle = emoji.pipeline.unet.register_forward_pre_hook(
        lambda module, args: seen.append(len(args[0]))
    )
    together = emoji.generate(PROMPTS, seed=1)
    one_image = emoji.size**2 * NUMBERS_A_PIXEL * 4
    monkeypatch.setattr("lineas_core.models.image.model.free_bytes", lambda device: 5 * one_image)
    apart = emoji.generate(PROMPTS, seed=1)
    monkeypatch.setattr("lineas_core.models.image.model.free_bytes", lambda device: 0)
    emoji.generate(PROMPTS[:2], seed=1)
    handle.remove()
    assert seen == [3, 2, 1, 1, 1]
    assert np.abs(pixels(together) - pixels(apart)).max() <= 1


def test_flux_reads_as_many_tokens_as_t5(small: dict[str, Path]) -> None:
    flux = lc.load_model(str(small["flux"]), device="cpu")
    assert isinstance(flux, DiffusionModel)
    prompt = string.ascii_lowercase
    assert len(flux.pipeline.tokenizer(prompt)["input_ids"]) > flux.pipeline.tokenizer_max_length
    (picture,) = flux.generate([prompt], steps=1)
    same = flux.pipeline(
        prompt, num_inference_steps=1, guidance_scale=flux.schedule.guidance,
        height=picture.height, width=picture.width, generator=generators([0]),
    ).images[0]  # fmt: skip
    assert np.abs(pixels([picture]) - pixels([same])).max() <= 1
    assert flux.prepare([prompt]) is not None


def test_a_scheduler_with_noise_levels_of_its_own_takes_no_timesteps(tmp_path: Path) -> None:
    pipeline = small_sd()
    pipeline.scheduler = DPMSolverMultistepScheduler(use_karras_sigmas=True, steps_offset=1)
    pipeline.save_pretrained(tmp_path)
    model = lc.load_model(str(tmp_path), device="cpu")
    assert model.generate(["abc"], steps=2)
    with pytest.raises(lc.ConfigError, match="takes no timesteps"):
        model.generate(["abc"], timesteps=[399])


def test_one_text_in_place_of_a_list_is_refused(emoji: DiffusionModel) -> None:
    for call in (emoji.generate, emoji.prepare, lambda text: emoji.sweep(text, [], [0.0])):
        with pytest.raises(lc.ConfigError, match="prompts is the text 'abc'"):
            call("abc")


def test_steps_and_timesteps_can_be_chosen(emoji: DiffusionModel) -> None:
    spy = Spy(emoji.pipeline.unet)
    emoji.generate(["abc"])
    emoji.generate(["abc"], timesteps=[799, 399, 99])
    emoji.generate(["abc"], steps=2)
    assert [int(call["timestep"]) for call, _ in spy.calls] == [399, 799, 399, 99, 999, 499]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0; choose 1 to 50"),
        ({"timesteps": [99, 399]}, r"timesteps is \[99, 399\]; give falling numbers from 999"),
        ({"timesteps": [1000]}, "timesteps is"),
        ({"timesteps": []}, "timesteps is"),
        ({"timesteps": [399], "steps": 2}, "steps is 2, and there are 1 timesteps"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": [1]}, "1 seed for 3 prompts"),
    ],
)
def test_settings_out_of_range_are_refused(
    emoji: DiffusionModel, settings: dict, message: str
) -> None:
    with pytest.raises(lc.ConfigError, match=message):
        emoji.generate(PROMPTS, **settings)


def test_what_cannot_be_read_or_run_is_named(emoji: DiffusionModel, load: Any) -> None:
    with pytest.raises(lc.PromptError, match="Prompt 2 is empty"):
        emoji.generate(["a", " "])
    with pytest.raises(lc.PromptError, match=r"Prompt 1 \('abcabc.*'\) has 20 tokens; .* reads 16"):
        emoji.prepare(["abcabc" * 3])
    with pytest.raises(lc.ConfigError, match="2 strengths for 3 prompts"):
        emoji.generate(PROMPTS, [(norm_map(emoji), torch.ones(2))])
    with pytest.raises(lc.ConfigError, match="strengths is empty"):
        emoji.sweep(PROMPTS, [], [])
    flux = load("flux.1-schnell")
    with pytest.raises(lc.ConfigError, match="takes no timesteps"):
        flux.generate(["a"], timesteps=[399])
    for name in TRANSFORMERS:
        model = load(name)
        limit = model._denoiser.tokens
        most = max(n for n in range(limit) if model.reads("a" * (n + 1)))
        # The last letter that it accepts, it also reads.
        a, b = (model.prepare(["a" * most + end]).conditioning.tokens for end in "ab")
        assert not torch.equal(a, b)
        with pytest.raises(lc.PromptError, match=rf"has \d+ tokens; {re.escape(name)} reads \d+"):
            model.generate(["a" * (most + 2)])
