"""Models with weights in 8 and 4 bits: as good as their bits are, trained and steered as others."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import lineas_core as lc
from lineas_core.activations import pooled_forward
from lineas_core.export.peft import to_peft
from lineas_core.maps.steering_map import BatchAffine
from lineas_core.models.shared.loading import check_memory
from lineas_core.models.shared.quantization import bytes_saved, quantization_config
from lineas_core.training.memory import bytes_kept
from tests.helpers.models import SIZES, random_map, save_checkpoint

# Error of a weight, as a share of the largest of its row or block. 8 bits: half a step of 127, and
# float16's rounding before. 4 bits: half the widest gap of NF4's values, 0.304, and its scales'.
ERRORS = {"int8": 0.5 / 127 + 2**-11, "int4": 0.17}
PROMPTS = ["Once upon a time", "The match", "It was a dark and stormy night in the valley"]
WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.LlamaConfig(**{**SIZES, **WIDTHS})
    return save_checkpoint(config, tmp_path_factory.mktemp("quantised") / "llama")


@pytest.fixture(scope="module")
def whole(folder: Path) -> lc.LanguageModel:
    model = lc.load_model(str(folder), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    return model


@pytest.fixture(scope="module", params=ERRORS)
def dtype(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("bitsandbytes", reason="needs the extra `quant`")
    return str(request.param)


@pytest.fixture(scope="module")
def model(folder: Path, dtype: str) -> lc.LanguageModel:
    loaded = lc.load_model(str(folder), device="cpu", dtype=dtype)
    assert isinstance(loaded, lc.LanguageModel)
    return loaded


def logits(model: lc.LanguageModel, texts: list[str]) -> torch.Tensor:
    return model.next_token_log_probs(texts)


def test_only_linear_layers_are_rounded(model: lc.LanguageModel, whole: lc.LanguageModel) -> None:
    before = dict(whole.module.named_parameters())
    rounded = {
        f"{name}.weight"
        for name, part in model.module.named_modules()
        if isinstance(part, nn.Linear) and not torch.is_floating_point(part.weight)
    }
    assert len(rounded) == 3 * 7
    for name, parameter in model.module.named_parameters():
        if name not in rounded:
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, before[name])


@pytest.fixture(scope="module")
def exact(folder: Path, dtype: str) -> lc.LanguageModel:
    """The model with its rounded weights in float32, as transformers has them."""
    loaded = lc.load_model(str(folder), device="cpu", dtype=dtype)
    assert isinstance(loaded, lc.LanguageModel)
    return lc.LanguageModel("exact", loaded.module.dequantize(), loaded.tokenizer)


def test_weights_are_wrong_by_half_a_step_at_most(
    exact: lc.LanguageModel, whole: lc.LanguageModel, dtype: str
) -> None:
    for name, weight in whole.module.named_parameters():
        found = exact.module.get_parameter(name)
        if not torch.equal(found, weight):
            size = weight.shape[1] if dtype == "int8" else 64
            blocks, other = (each.reshape(-1, size) for each in (weight, found))
            largest = blocks.abs().amax(dim=1, keepdim=True)
            assert ((other - blocks).abs() <= ERRORS[dtype] * largest).all()


def test_outputs_and_gradients_are_those_of_the_rounded_weights(
    model: lc.LanguageModel, exact: lc.LanguageModel
) -> None:
    sites = model.sites("post_layernorm")
    found = []
    for each in (model, exact):
        # Without gradients first: what bitsandbytes keeps of such a pass must not take them away.
        plain = logits(each, PROMPTS)
        maps = zero_maps(sites)
        pooled = pooled_forward(each, each.prepare(PROMPTS), sites, maps=maps)
        pooled[sites[-1]].square().sum().backward()
        found.append([plain, *(shift.grad for _, shift in maps.values())])
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-3)
    assert all(bool(gradient.any()) for gradient in found[0])


def test_a_prompt_gives_in_a_batch_what_it_gives_alone(model: lc.LanguageModel) -> None:
    inputs = model.prepare(PROMPTS)
    together = model.module(input_ids=inputs.ids, attention_mask=inputs.mask.long()).logits
    for row, mask, ids in zip(together, inputs.mask, inputs.ids, strict=True):
        alone = model.module(input_ids=ids[mask][None]).logits[0]
        torch.testing.assert_close(row[mask], alone, rtol=1e-4, atol=1e-4)
    texts = model.generate(PROMPTS, seed=[1, 2, 3], max_new_tokens=8)
    assert texts == [
        model.generate([prompt], seed=seed, max_new_tokens=8)[0]
        for prompt, seed in zip(PROMPTS, (1, 2, 3), strict=True)
    ]


def test_a_step_keeps_no_more_than_the_whole_models(
    model: lc.LanguageModel, whole: lc.LanguageModel
) -> None:
    kept = []
    for each in (model, whole):
        sites = each.sites("post_layernorm")
        kept.append(bytes_kept(each, each.prepare(PROMPTS), sites, zero_maps(sites)))
    assert kept[0] <= kept[1]


def zero_maps(sites: list[str]) -> dict[str, BatchAffine]:
    return {
        site: BatchAffine(torch.zeros(64, requires_grad=True), torch.zeros(64, requires_grad=True))
        for site in sites
    }


@pytest.mark.thorough
def test_maps_train_and_steer(model: lc.LanguageModel, prompts: lc.PromptSet) -> None:
    config = lc.TrainConfig.for_model(model, steps=12, sites="post_layernorm", batch_size=8)
    weights = {name: tensor.clone() for name, tensor in model.module.named_parameters()}
    result = lc.train(model, prompts, config)
    assert result.losses[-1] < result.losses[0]
    assert all(torch.equal(p, weights[n]) for n, p in model.module.named_parameters())
    maps = [result.map, random_map(dict.fromkeys(model.sites("o_proj"), 64), 0)]
    for smap in maps:
        strengths = torch.tensor([0.0, 0.5, 1.0])
        rows = model.generate(PROMPTS, [(smap, strengths)], seed=1, max_new_tokens=8)
        for prompt, strength, text in zip(PROMPTS, strengths.tolist(), rows, strict=True):
            alone = model.generate([prompt], [(smap, strength)], seed=1, max_new_tokens=8)
            assert alone == [text]
        assert rows[2] != model.generate(PROMPTS[2:], seed=1, max_new_tokens=8)[0]


# PEFT warns about norms that it does not know, and calls what transformers deprecates.
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_what_needs_whole_weights_is_refused(
    model: lc.LanguageModel, folder: Path, dtype: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    smap = random_map(dict.fromkeys(model.sites("post_layernorm"), 64), 0)
    o_proj = random_map(dict.fromkeys(model.sites("o_proj"), 64), 0)
    for each in (smap, o_proj):
        with pytest.raises(lc.SiteError, match="quantised"):
            lc.fold(model, each, to=tmp_path / "folded")
        with pytest.raises(lc.SiteError, match="quantised"):
            to_peft(model, each, to=tmp_path / "adapter")
    only_scales = lc.SteeringMap(
        {site: lc.Affine(affine.scale, torch.zeros(64)) for site, affine in smap.sites.items()}
    )
    with pytest.raises(lc.ModelError, match="quantised"):
        lc.fold(model, only_scales, to=tmp_path / "folded")
    to_peft(model, only_scales, to=tmp_path / "adapter")
    base = lc.load_model(str(folder), device="cpu", dtype=dtype).module
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    ids = model.prepare(PROMPTS[:1]).ids
    with torch.no_grad(), lc.steer(model, [(only_scales, 1.0)]):
        torch.testing.assert_close(adapted(ids).logits, model.module(ids).logits)


def test_a_saved_model_loads_in_the_bits_it_was_saved_in(
    model: lc.LanguageModel, dtype: str, tmp_path: Path
) -> None:
    model.module.save_pretrained(tmp_path / "stored")
    model.tokenizer.save_pretrained(tmp_path / "stored")
    again = lc.load_model(str(tmp_path / "stored"), device="cpu")
    assert isinstance(again, lc.LanguageModel)
    torch.testing.assert_close(logits(again, PROMPTS), logits(model, PROMPTS))
    with pytest.raises(lc.ModelError, match=f"dtype='{dtype}'"):
        lc.load_model(str(tmp_path / "stored"), device="cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", ERRORS)
def test_a_missing_package_is_named_with_its_extra(
    dtype: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(lc.ConfigError, match=rf"dtype is '{dtype}'.*lineas-studio\[quant\]"):
        lc.load_model(str(folder), device="cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int2"}, "dtype is 'int2'; choose auto, .*int8, int4"),
        ({"dtype": "int4", "device": "meta"}, "dtype is 'int4', and the device is meta"),
    ],
)
def test_what_cannot_be_rounded_is_refused(
    settings: dict[str, str], message: str, folder: Path
) -> None:
    with pytest.raises(lc.ConfigError, match=message):
        lc.load_model(str(folder), **settings)


def test_pictures_are_not_rounded() -> None:
    with pytest.raises(lc.ConfigError, match="dtype is 'int8', and emoji-onestep makes images"):
        lc.load_model("emoji-onestep", device="cpu", dtype="int8")


def test_code_from_the_hub_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra `quant`")
    fetched = types.ModuleType("kernels")
    monkeypatch.setitem(sys.modules, "kernels", fetched)
    quantization_config("int4", torch.float32, torch.device("cpu"))
    assert sys.modules["kernels"] is fetched


def test_the_memory_that_is_asked_for_counts_the_bits(
    folder: Path, whole: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = sum(
        part.weight.numel()
        for name, part in whole.module.named_modules()
        if isinstance(part, nn.Linear) and name != "lm_head"
    )
    config = whole.module.config
    assert bytes_saved(config, "int8", torch.float32) == 3 * linear
    assert bytes_saved(config, "int4", torch.bfloat16) == 1.5 * linear
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    monkeypatch.setattr("lineas_core.models.shared.loading.free_bytes", lambda device: size // 2)
    cpu = torch.device("cpu")
    with pytest.raises(lc.ModelError, match="GiB of memory"):
        check_memory("llama", str(folder), cpu, torch.float32)
    check_memory("llama", str(folder), cpu, torch.float32, saved=3 * linear)
