from __future__ import annotations

import hashlib
import io
import pickle
import re
import shutil
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FluxPipeline,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

import lineas_core as lc
from lineas_core.activations import execution_order, pooled_forward
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.models.image.model import (
    NOISE_SEED,
    NUMBERS_A_PIXEL,
    TRAIN_DEFAULTS,
    DiffusionModel,
)
from lineas_core.models.image.pipelines import load_unet, plan_memory
from lineas_core.models.shared.catalog import CatalogEntry, catalog
from lineas_core.steerable import Steerable
from tests.helpers.models import random_map
from tests.helpers.pipelines import (
    KINDS,
    SIZE,
    Spy,
    Touch,
    generators,
    pixels,
    save_small_pipelines,
    small_sd,
    small_unet,
    small_unet_xl,
)

# diffusers' Euler schedulers convert tensors to arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PROMPTS = ["abc abc", "x", "a cab"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_small_pipelines(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="module")
def entries(small: dict[str, Path]) -> dict[str, CatalogEntry]:
    """The catalogue's image models, with small weights instead of the large ones."""
    checkpoints = small["xl"].parent / "checkpoints"
    checkpoints.mkdir()
    found: dict[str, CatalogEntry] = {}
    for number, (name, kind) in enumerate(KINDS.items(), start=1):
        entry = catalog()[name]
        changes: dict[str, Any] = {"hub": str(small[kind]), "folder": "", "size": SIZE}
        changes |= {"memory": 0.1, "dtype": "float32", "tiny_vae": str(small["taesd"])}
        if kind != "xl":
            changes["variant"] = ""
        if kind == "flux":
            changes["tokens"] = 12
        if entry.unet_file:
            changes["unet_repo"] = str(checkpoints)
            torch.manual_seed(number)
            half = {k: v.half() for k, v in small_unet_xl().state_dict().items()}
            binary = entry.unet_file.endswith(".bin")
            (torch.save if binary else save_file)(half, checkpoints / entry.unet_file)
        found[name] = replace(entry, **changes)
    return found


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: networks this small are many times slower with thread synchronisation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def load(entries: dict[str, CatalogEntry], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("lineas_core.models.load.catalog", lambda: {**catalog(), **entries})

    def load_model(name: str, **settings: Any) -> DiffusionModel:
        model = lc.load_model(name, device="cpu", **settings)
        assert isinstance(model, DiffusionModel)
        return model

    return load_model


@pytest.fixture
def emoji(load: Any) -> DiffusionModel:
    return load("emoji-onestep")


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
    settings: dict[str, Any] = {"timesteps": list(model.schedule.timesteps) or None}
    if isinstance(model.pipeline, FluxPipeline):
        settings = {"max_sequence_length": 12}
    spy = Spy(model._denoiser.module)
    inputs = model.prepare(PROMPTS)
    model.forward(inputs)
    model.pipeline(
        prompt=PROMPTS,
        generator=generators([NOISE_SEED, NOISE_SEED + 1, NOISE_SEED + 2]),
        num_inference_steps=model.schedule.steps,
        guidance_scale=model.schedule.guidance,
        height=SIZE,
        width=SIZE,
        **settings,
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
    assert (model.modality, model.id, model.size) == ("image", name, SIZE)
    assert not any(p.requires_grad for p in model.module.parameters())
    assert not any(m.training for m in model.module.modules())
    smap = norm_map(model)
    plain = pixels(model.generate(PROMPTS, seed=1))
    assert plain.shape == (3, SIZE, SIZE, 3)
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
    unet.load_state_dict(torch.load(Path(entry.unet_repo) / entry.unet_file))
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


def test_a_checkpoint_of_another_network_or_with_code_in_it_is_refused(
    tmp_path: Path, small: dict[str, Path], entries: dict[str, CatalogEntry]
) -> None:
    def attempt() -> None:
        DiffusionModel.from_pretrained(
            entry.hub, id=entry.id, device=torch.device("cpu"), dtype=torch.float32, entry=entry
        )

    entry = replace(entries["dmd2-sdxl-1step"], unet_repo=str(tmp_path), unet_file="unet.bin")
    with pytest.raises(lc.ModelError, match=r"Cannot load dmd2-sdxl-1step .*unet\.bin"):
        attempt()
    torch.save(small_unet().state_dict(), tmp_path / "unet.bin")
    with pytest.raises(lc.ModelError, match=r"unet\.bin of .* does not fit .*add_embedding"):
        attempt()
    (tmp_path / "unet.bin").write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=2))
    with pytest.raises(lc.ModelError, match=r"Cannot load dmd2-sdxl-1step .*[Ww]eights.only"):
        attempt()
    assert not (tmp_path / "ran").exists()


def put_in_cache(cache: Path, repo: str, revision: str, file: str, data: bytes) -> Path:
    """Put a file into the hub's cache as a download does; returns the file with the data."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    link = folder / "snapshots" / revision / file
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(data)
    link.symlink_to(blob)
    return blob


def test_a_pickle_of_the_hub_needs_a_pinned_commit_and_the_sum_that_it_names(
    tmp_path: Path, small: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, file = "somebody/unet", "unet.bin"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.manual_seed(1)
    weights = io.BytesIO()
    torch.save(small_unet_xl().state_dict(), weights)
    blob = put_in_cache(tmp_path, repo, "a" * 40, file, weights.getvalue())

    unet = load_unet(str(small["xl"]), repo, file, "a" * 40, torch.float32)
    torch.manual_seed(1)
    wanted = small_unet_xl().state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in unet.state_dict().items())

    for revision in ("", "main", "a" * 39):
        with pytest.raises(lc.ModelError, match="is a pickle, and its revision is"):
            load_unet(str(small["xl"]), repo, file, revision, torch.float32)
    blob.write_bytes(weights.getvalue() + b"changed")
    with pytest.raises(lc.ModelError, match=r"unet\.bin of somebody/unet has the SHA-256"):
        load_unet(str(small["xl"]), repo, file, "a" * 40, torch.float32)


def test_every_pickle_of_the_catalogue_is_pinned() -> None:
    pickled = [e for e in catalog().values() if e.unet_file.endswith(".bin")]
    assert pickled
    assert all(re.fullmatch("[0-9a-f]{40}", entry.unet_revision) for entry in pickled)


def test_the_small_decoder_is_taken_where_it_is_asked_for(load: Any, tiny: Any) -> None:
    model = load("dmd2-sdxl-1step", tiny_vae=True)
    assert isinstance(model.pipeline.vae, AutoencoderTiny)
    assert model.generate(["abc"])[0].size == (SIZE, SIZE)
    with pytest.raises(lc.ConfigError, match="tiny_vae is True"):
        load(tiny.id, tiny_vae=True)


def test_any_folder_of_the_three_classes_loads(small: dict[str, Path], tmp_path: Path) -> None:
    for kind, part in [("sd", "unet"), ("flux", "transformer")]:
        model = lc.load_model(str(small[kind]), device="cpu")
        assert isinstance(model, DiffusionModel)
        assert all(site.startswith(f"{part}.") for site in model.sites(model.default_sites))
        assert lc.TrainConfig.for_model(model) == lc.TrainConfig(**TRAIN_DEFAULTS)
        assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    other = shutil.copytree(small["sd"], tmp_path / "other")
    index = (other / "model_index.json").read_text()
    (other / "model_index.json").write_text(index.replace("StableDiffusionPipe", "OtherPipe"))
    with pytest.raises(lc.ModelError, match="is a OtherPipeline; this library runs Stable"):
        lc.load_model(str(other), device="cpu")
    with pytest.raises(lc.ConfigError, match="knows none for"):
        lc.load_model(str(small["sd"]), device="cpu", tiny_vae=True)


def test_loading_and_generating_print_no_complaint(
    load: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    load("emoji-onestep").generate(["abc"])
    load("dmd2-sdxl-4step", tiny_vae=True).generate(["abc"])
    printed = capfd.readouterr()
    lines = [line for line in re.split(r"[\r\n]", printed.out + printed.err) if line.strip()]
    assert all(line.startswith("Loading weights") for line in lines), lines


def test_weights_that_are_missing_and_memory_that_is_short_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = replace(catalog()["emoji-onestep"], folder="assets/none")
    huge = replace(catalog()["sd-turbo"], memory=1e6)
    monkeypatch.setattr("lineas_core.models.load.catalog", lambda: {"absent": absent, "huge": huge})
    with pytest.raises(lc.ModelError, match=r"emoji-onestep comes .* assets/none"):
        lc.load_model("absent")
    with pytest.raises(lc.ModelError, match=r"needs 1000000.0 GiB of memory on cpu; \S+ are free"):
        lc.load_model("huge", device="cpu", dtype="bfloat16")
    entry, half = catalog()["sdxl-turbo"], torch.bfloat16
    assert (entry.memory, entry.memory_offloaded) == (9.0, 6.5)
    assert not plan_memory(entry, "cuda", half, 1, 10)
    assert plan_memory(entry, "cuda", half, 10, 8)
    assert not plan_memory(entry, "cpu", torch.float32, 18, None)
    with pytest.raises(lc.ModelError, match="needs 18.0 GiB of memory on cpu; 17.0 are free"):
        plan_memory(entry, "cpu", torch.float32, 17, None)
    with pytest.raises(lc.ModelError, match=r"9.0 GiB .* \(or 6.5, and 9.0 .* 8.0 are free\); 8.0"):
        plan_memory(entry, "cuda", half, 8, 8)


@pytest.mark.parametrize("pattern", ["norm", "text_norm", r"(unet|text_encoder).*norm\d?"])
@pytest.mark.parametrize("name", ["emoji-onestep", "dmd2-sdxl-1step", "flux.1-schnell"])
def test_a_map_trains_on_sites_of_any_part(
    name: str, pattern: str, load: Any, prompts: lc.PromptSet
) -> None:
    model = load(name)
    prompts = replace(prompts, modality="image")
    config = lc.TrainConfig.for_model(
        model, steps=6, rate=0.005, batch_size=8, gamma=0, sites=pattern
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


@pytest.mark.parametrize("name", ["emoji-onestep", "dmd2-sdxl-1step", "flux.1-schnell"])
def test_gradients_reach_text_encoders_from_the_denoiser(name: str, load: Any) -> None:
    model = load(name)
    inputs = model.prepare(PROMPTS)
    encoders = [n for n, _ in model.module.named_children() if n.startswith("text_encoder")]
    last = execution_order(model, inputs, model.sites("norm"))[-1]
    for encoder in encoders:
        site = model.sites(rf"{encoder}\..*(0|1).*norm\d?")[0]
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


def test_noise_belongs_to_the_seed_whatever_the_batch(load: Any) -> None:
    model = load("dmd2-sdxl-4step")
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


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pipeline_that_lacks_tensors_is_refused_with_their_names(
    tmp_path: Path, part: str
) -> None:
    small_sd().save_pretrained(tmp_path)
    (file,) = (tmp_path / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("weight"))
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    ending = name.removeprefix("text_model.")
    with pytest.raises(lc.ModelError, match=rf"lacks 1 tensor .*{part}\.\S*{re.escape(ending)}"):
        lc.load_model(str(tmp_path), device="cpu")


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
    with pytest.raises(lc.PromptError, match=r"has 14 tokens; flux\.1-schnell reads 12"):
        flux.generate(["abcdefabcdef"])
