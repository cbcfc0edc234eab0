from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import lineas_core as lc
from lineas_core.export.checkpoint import fold
from lineas_core.export.peft import to_peft
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.load import as_image_model
from lineas_core.system.paths import checkout
from tests.export.test_checkpoint import map_of, only_scales
from tests.helpers.models import random_map
from tests.helpers.pipelines import SIZE, generators, pixels, save_small_pipelines

# A warning of schedulers that convert tensors to arrays.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PROMPTS = ["abc abc", "x", "a cab"]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_small_pipelines(tmp_path_factory.mktemp("pipelines"))


@pytest.mark.parametrize("kind", ["sd", "turbo", "xl"])
def test_plain_diffusers_draws_what_steering_draws(
    pipelines: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    if kind == "xl":
        loaded: Any = diffusers.DiffusionPipeline.from_pretrained(pipelines[kind], variant="fp16")
        loaded.set_progress_bar_config(disable=True)
        model = DiffusionModel(kind, loaded)
    else:
        model = as_image_model(lc.load_model(str(pipelines[kind]), device="cpu"))
    smap = map_of(model, r"(unet|text_encoder).*norm\w*\d?|unet.*(conv1|to_out\.0|to_q)")
    # Layers without a bias accept only a scale.
    short = [s for s in smap.sites if getattr(model.module.get_submodule(s), "bias", 0) is None]
    scaled = only_scales(smap).sites
    smap = SteeringMap({**smap.sites, **{s: scaled[s] for s in short}}, smap.info)
    assert short
    before = {name: t.clone() for name, t in model.module.state_dict().items()}
    folder = fold(model, smap, 0.7, to=tmp_path / "folded")
    assert all(torch.equal(model.module.state_dict()[n], t) for n, t in before.items())
    wanted = pixels(model.generate(PROMPTS, [(smap, 0.7)], seed=[1, 2, 3]))
    assert (wanted != pixels(model.generate(PROMPTS, seed=[1, 2, 3]))).any()
    plainly = diffusers.DiffusionPipeline.from_pretrained(folder)
    plainly.set_progress_bar_config(disable=True)
    drawn = plainly(
        prompt=PROMPTS,
        generator=generators([1, 2, 3]),
        num_inference_steps=model.schedule.steps,
        guidance_scale=model.schedule.guidance,
        height=SIZE,
        width=SIZE,
    ).images
    assert abs(pixels(drawn) - wanted).max() <= 1
    card = (folder / "README.md").read_text()
    assert f"num_inference_steps={model.schedule.steps}" in card


def test_what_a_pipeline_cannot_hold_is_named(pipelines: dict[str, Path], tmp_path: Path) -> None:
    # FLUX's first norm is adaptive; the other norms have no weights.
    sites = {"flux": ["norm1", "norm2"], "klein": ["norm1"], "sana": ["norm2"]}
    for kind, norms in sites.items():
        model = as_image_model(lc.load_model(str(pipelines[kind]), device="cpu"))
        for norm in norms:
            smap = random_map({f"transformer.transformer_blocks.0.{norm}": 16}, 0)
            with pytest.raises(lc.SiteError, match=rf"0.{norm}: only linear layers"):
                fold(model, smap, to=tmp_path / "folded")
    sd = as_image_model(lc.load_model(str(pipelines["sd"]), device="cpu"))
    with pytest.raises(lc.SiteError, match=r"to_q: a shift there needs a bias"):
        fold(sd, map_of(sd, r"unet.*to_q"), to=tmp_path / "folded")
    with pytest.raises(lc.ModelError, match="lineas_core.fold"):
        to_peft(sd, map_of(sd, "text_norm"), to=tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.embedded
def test_plain_diffusers_draws_the_embedded_models_steered_pictures(tmp_path: Path) -> None:
    model = as_image_model(lc.load_model("emoji-onestep", device="cpu"))
    smap = map_of(model, model.default_sites, spread=0.1)
    folder = fold(model, smap, 0.7, to=tmp_path / "folded")
    plainly = diffusers.DiffusionPipeline.from_pretrained(folder)
    plainly.set_progress_bar_config(disable=True)
    drawn = plainly(
        "a tiger",
        num_inference_steps=1,
        timesteps=[399],
        guidance_scale=0,
        generator=torch.Generator().manual_seed(0),
    ).images
    wanted = pixels(model.generate(["a tiger"], [(smap, 0.7)], seed=0))
    assert abs(pixels(drawn) - wanted).max() <= 1
    card = (folder / "README.md").read_text()
    assert "Its licence, Apache-2.0, holds for this checkpoint too (LICENSE)." in card
    assert "license: apache-2.0" in card
    assert (folder / "LICENSE").read_bytes() == (checkout() / "LICENSE").read_bytes()
    assert "timesteps=[399]" in card
