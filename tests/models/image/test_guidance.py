"""Guidance: the pictures are those of the pipeline's own call, and steering acts on both halves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lineas_core as lc
from lineas_core.activations import execution_order, pooled_forward
from lineas_core.models.image.model import NOISE_SEED
from lineas_core.models.image.schedule import Schedule
from tests.helpers.models import random_map
from tests.helpers.pipelines import BUILDERS, SIZES, TOKENS, Spy, generators, pixels, small_flux

# diffusers' Euler schedulers convert tensors to arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PROMPTS = ["abc abc", "x", "a cab"]
STEPS, GUIDANCE = 2, 4.0
# Name -> how the pipeline is built, and what of its config is changed.
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    # Those whose denoiser also runs without the prompts, in one batch with them, or after them.
    "sd": (BUILDERS["sd"], {}),
    "xl": (BUILDERS["xl"], {}),
    "xl-empty": (BUILDERS["xl"], {"force_zeros_for_empty_prompt": False}),
    "z-image": (BUILDERS["z-image"], {}),
    "klein": (BUILDERS["klein"], {"is_distilled": False}),
    "qwen": (BUILDERS["qwen"], {}),
    # Those that take the guidance as an input.
    "turbo": (BUILDERS["turbo"], {}),
    "sana": (BUILDERS["sana"], {}),
    "flux": (partial(small_flux, guidance_embeds=True), {}),
}
CLASSIFIER_FREE = list(KINDS)[:6]
# What a pipeline's call has to be told besides the settings of all.
OWN_CALL: dict[str, dict[str, Any]] = {
    "sana": {"use_resolution_binning": False},
    "qwen": {"guidance_scale": None, "true_cfg_scale": GUIDANCE, "negative_prompt": [""] * 3},
}


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str) -> lc.DiffusionModel:
    build, changes = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = build()
    pipeline.register_to_config(**changes)
    pipeline.set_progress_bar_config(disable=True)
    loaded = lc.load_model(pipeline)
    assert isinstance(loaded, lc.DiffusionModel)
    denoiser = loaded._denoiser
    denoiser.size, denoiser.tokens = SIZES[kind], denoiser.tokens and TOKENS[kind]
    return loaded


def called(model: lc.DiffusionModel, kind: str, first_seed: int = 5) -> np.ndarray:
    """The pictures of the pipeline's own call."""
    settings: dict[str, Any] = {"guidance_scale": GUIDANCE, **OWN_CALL.get(kind, {})}
    if model._denoiser.tokens:
        settings["max_sequence_length"] = model._denoiser.tokens
    return pixels(
        model.pipeline(
            # Z-Image writes into the list.
            prompt=list(PROMPTS),
            generator=generators([first_seed, first_seed + 1, first_seed + 2]),
            num_inference_steps=STEPS,
            height=model.size,
            width=model.size,
            **settings,
        ).images
    )


def drawn(model: lc.DiffusionModel, steer: Any = (), **settings: Any) -> np.ndarray:
    return pixels(model.generate(PROMPTS, steer, seed=[5, 6, 7], **settings))


def norm_map(model: lc.DiffusionModel, spread: float, pattern: str = "norm") -> lc.SteeringMap:
    with torch.no_grad():
        inputs = model.prepare(["a"])
        sites = execution_order(model, inputs, model.sites(pattern))
        found = pooled_forward(model, inputs, sites)
    return random_map({name: z.shape[1] for name, z in found.items()}, 0, spread)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_pictures_are_those_of_the_pipelines_own_call(model: lc.DiffusionModel, kind: str) -> None:
    wanted = called(model, kind)
    named = drawn(model, steps=STEPS, guidance=GUIDANCE)
    assert np.abs(named - wanted).max() <= 1
    assert np.abs(drawn(model, steps=STEPS, guidance=0) - wanted).max() > 1
    model.schedule = Schedule(steps=STEPS, guidance=GUIDANCE)
    assert (drawn(model) == named).all()
    assert np.abs(drawn(model, guidance=0) - wanted).max() > 1


@pytest.mark.parametrize("pattern", ["norm", "text_norm"])
@pytest.mark.parametrize("kind", CLASSIFIER_FREE, indirect=True)
def test_both_halves_of_a_step_are_steered(
    model: lc.DiffusionModel, kind: str, pattern: str
) -> None:
    smap = norm_map(model, 0.3, pattern)
    with lc.steer(model.pipeline, [(smap, 0.8)]):
        wanted = called(model, kind)
    found = drawn(model, [(smap, 0.8)], steps=STEPS, guidance=GUIDANCE)
    assert np.abs(found - wanted).max() <= 1
    assert np.abs(found - drawn(model, steps=STEPS, guidance=GUIDANCE)).max() > 1


@pytest.mark.parametrize("kind", CLASSIFIER_FREE, indirect=True)
def test_each_picture_has_its_own_strength_in_both_halves(
    model: lc.DiffusionModel, kind: str
) -> None:
    model.schedule = Schedule(STEPS, guidance=GUIDANCE)
    maps = [norm_map(model, 0.3), norm_map(model, 0.2, "text_norm")]
    # The decoder, like the text encoders, sees each picture once where the denoiser sees it twice.
    decoder, width = [
        (name, module.out_channels)
        for name, module in model.module.named_modules()
        if name.startswith("vae.decoder") and isinstance(module, nn.Conv2d)
    ][-1]
    shifted = {decoder: lc.Affine(torch.ones(width), torch.full((width,), 0.2))}
    both = lc.SteeringMap({**maps[0].sites, **maps[1].sites, **shifted})
    strengths = torch.tensor([0.0, 0.4, 1.0])
    found = drawn(model, [(both, strengths), (maps[0], 0.1)])
    for row, strength in enumerate(strengths.tolist()):
        alone = drawn(model, [(both, strength), (maps[0], 0.1)])
        assert np.abs(found[row] - alone[row]).max() <= 1
    assert np.abs(found - drawn(model, [(both, 1.0), (maps[0], 0.1)])).max() > 1
    grid = model.sweep(PROMPTS, [(maps[0], None)], [0, 1], seed=[5, 6, 7], batch_size=4)
    steered = pixels([row[1] for row in grid.images])
    assert np.abs(steered - drawn(model, [(maps[0], 1.0)])).max() <= 1


@pytest.mark.parametrize("kind", CLASSIFIER_FREE, indirect=True)
def test_maps_are_learned_from_the_half_with_the_prompts(
    model: lc.DiffusionModel, kind: str
) -> None:
    model.schedule = Schedule(STEPS, guidance=GUIDANCE)
    spy = Spy(model._denoiser.module)
    model.forward(model.prepare(PROMPTS))
    called(model, kind, NOISE_SEED)
    (_, ours), (_, first) = spy.calls[:2]
    assert len(ours) == 3
    # Stable Diffusion has the half without the prompts first.
    theirs = first[3:] if kind in ("sd", "xl", "xl-empty") else first[:3]
    for mine, wanted in zip(ours, theirs, strict=True):
        assert (mine - wanted).norm() < 1e-3 * wanted.norm()


def test_guidance_that_a_pipeline_ignores_is_refused(load: Any) -> None:
    for name in ("flux.1-schnell", "flux.2-klein-4b"):
        model = load(name)
        model.generate(["a"], guidance=1.0)
        with pytest.raises(lc.ConfigError, match=rf"guidance is 3\.5, and {name} .* set it to 0"):
            model.generate(["a"], guidance=3.5)
        model.schedule = Schedule(2, guidance=3.5)
        with pytest.raises(lc.ConfigError, match=r"guidance is 3\.5"):
            model.generate(["a"])


def test_the_default_guidance_is_one_that_the_pipeline_takes() -> None:
    for embeds, wanted in ((False, 0.0), (True, 3.5)):
        model = lc.load_model(small_flux(guidance_embeds=embeds))
        assert isinstance(model, lc.DiffusionModel)
        assert model.schedule == Schedule(4, guidance=wanted)


@pytest.mark.parametrize("guidance", [-1.0, math.inf, math.nan])
def test_guidance_out_of_range_is_refused(emoji: lc.DiffusionModel, guidance: float) -> None:
    for make in (lambda g: Schedule(1, guidance=g), lambda g: emoji.generate(["a"], guidance=g)):
        with pytest.raises(lc.ConfigError, match=f"guidance is {guidance}"):
            make(guidance)
