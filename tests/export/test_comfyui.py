from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

import lineas_core as lc
from lineas_core.cli.exchange import register
from lineas_core.maps.bounds import Bounds
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.load import as_image_model
from tests.export import comfyui
from tests.export.test_checkpoint import map_of
from tests.helpers.pipelines import pixels, small_flux, small_sd, small_unet, small_xl

# A warning of schedulers that convert tensors to arrays.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PROMPTS = ["abc abc", "x"]


def deep_sd() -> Any:
    """Three levels, two residual blocks in each, as in Stable Diffusion."""
    return small_sd(
        small_unet(
            block_out_channels=(8, 16, 16),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )
    )


PIPELINES: dict[str, Callable[[], Any]] = {"sd": small_sd, "deep": deep_sd, "xl": small_xl}


def loaded(build: Callable[[], Any]) -> DiffusionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return as_image_model(lc.load_model(build()))


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_oracle_names_weights_as_diffusers_reads_checkpoints(kind: str) -> None:
    unet = loaded(PIPELINES[kind]).module.get_submodule("unet")
    state = dict(unet.state_dict())
    names = comfyui.original_weights(unet.config, state)
    assert len(names) == len(state)
    original = {f"model.diffusion_model.{n}": state[name] for n, name in names.items()}
    read = convert_ldm_unet_checkpoint(original, dict(unet.config))
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize(("kind", "strength"), [("sd", 0.6), ("deep", 1.0), ("xl", -0.5)])
def test_the_loader_of_comfyui_draws_what_steering_draws(
    tmp_path: Path, kind: str, strength: float
) -> None:
    model = loaded(PIPELINES[kind])
    smap = map_of(model, "norm")
    assert {"unet.conv_norm_out", "unet.mid_block.resnets.1.norm2"} < set(smap.sites)
    file = lc.to_comfyui(model, smap, to=tmp_path / "ink.safetensors")
    wanted = pixels(model.generate(PROMPTS, [(smap, strength)], seed=[1, 2]))
    assert abs(wanted - pixels(model.generate(PROMPTS, seed=[1, 2]))).max() > 5
    unet = model.module.get_submodule("unet")
    assert comfyui.load(unet, load_file(file), strength) == set()
    assert abs(pixels(model.generate(PROMPTS, seed=[1, 2])) - wanted).max() <= 1


def test_a1111_finds_both_parts_of_each_norm_and_its_version(tmp_path: Path) -> None:
    for kind, build in PIPELINES.items():
        model = loaded(build)
        file = lc.to_comfyui(model, map_of(model, "resnet_norm"), to=tmp_path / "a.safetensors")
        with safe_open(str(file), "pt") as opened:
            keys, metadata = list(opened.keys()), opened.metadata()
        modules = {key.partition(".")[0] for key in keys}
        assert sorted(keys) == sorted(f"{m}.{p}_norm" for m in modules for p in "wb")
        # `extensions-builtin/Lora/networks.py`: a module that is not diffusers' is looked up under
        # its own name after this prefix.
        assert all(module.startswith("lora_unet_") for module in modules)
        # `extensions-builtin/Lora/network.py`, `detect_version`.
        assert metadata.get("ss_base_model_version", "").startswith("sdxl_") == (kind == "xl")
        assert json.loads(metadata["lineas"])["name"] == "random 1"


def test_what_such_a_file_cannot_hold_is_named(tiny: lc.LanguageModel, tmp_path: Path) -> None:
    to, sd = tmp_path / "a.safetensors", loaded(small_sd)
    mixed = map_of(sd, r"unet.*(conv1|norm1)|text_encoder.*final_layer_norm")
    with pytest.raises(lc.SiteError, match=r"^\d+ sites .*conv1.*final_layer_norm.*only norms"):
        lc.to_comfyui(sd, mixed, to=to)
    norms = map_of(sd, r"unet.*norm1")
    site, affine = next(iter(norms.sites.items()))
    bounds = {site: Bounds(-affine.scale.abs(), affine.scale.abs())}
    with pytest.raises(lc.SiteError, match=rf"^1 site .*{re.escape(site)}: .*bounds='none'"):
        lc.to_comfyui(sd, replace(norms, bounds=bounds), to=to)
    with pytest.raises(lc.MapError, match="changes nothing"):
        lc.to_comfyui(sd, map_of(sd, "norm").at(0), to=to)
    for build in (small_flux, lambda: small_sd(small_unet(addition_embed_type="text"))):
        other = loaded(build)
        with pytest.raises(lc.ModelError, match=r"Stable Diffusion.*`lineas_core.fold`"):
            lc.to_comfyui(other, map_of(other, "text_norm"), to=to)
    with pytest.raises(lc.ModelError, match="Stable Diffusion"):
        lc.to_comfyui(tiny, map_of(sd, "norm"), to=to)
    assert not to.exists()


def test_a_file_is_written_from_a_terminal_for_the_maps_own_model(tmp_path: Path) -> None:
    small_sd().save_pretrained(tmp_path / "sd")
    model = as_image_model(lc.load_model(str(tmp_path / "sd"), device="cpu"))
    sites = map_of(model, "norm").sites
    smap = lc.SteeringMap(sites, lc.MapInfo(model=str(tmp_path / "sd")))
    file, out = smap.save(tmp_path / "map.safetensors"), tmp_path / "ink.safetensors"
    app = typer.Typer()
    register(app)
    command = ["export", "comfyui", "--map", f"{file}@0.5", "--to", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    wanted = load_file(lc.to_comfyui(model, smap.at(0.5), to=tmp_path / "b.safetensors"))
    written = load_file(out)
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[key], wanted[key]) for key in wanted)
