"""Models and pipelines that people made themselves: steered as they are, and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline
from torch import nn

import lineas_core as lc
from lineas_core.models.load import _in_memory
from lineas_core.steering import _module_of
from tests.helpers.models import random_map
from tests.helpers.pipelines import BUILDERS, SIZE, generators, pixels, small_sd, small_unet

# diffusers' Euler schedulers convert tensors to arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PROMPTS = ["abc abc", "a cab"]
# Kind of pipeline -> the name of its denoiser.
DENOISERS = {"sd": "unet", "turbo": "unet", "xl": "unet", "flux": "transformer"}


@pytest.fixture(scope="module", params=DENOISERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline as a user has it: from a folder, by diffusers alone."""
    folder = tmp_path_factory.mktemp(kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BUILDERS[kind]().save_pretrained(folder)
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any) -> Any:
    settings = {} if hasattr(pipe, "unet") else {"max_sequence_length": 12}
    return pixels(
        pipe(
            PROMPTS, num_inference_steps=2, guidance_scale=0.0, height=SIZE, width=SIZE,
            generator=generators([1, 2]), **settings,
        ).images
    )  # fmt: skip


def norm_map(model: lc.DiffusionModel, pattern: str = "norm") -> lc.SteeringMap:
    return lc.fit("mean-act", model, LETTERS, lc.TrainConfig(sites=pattern, order="parallel"))


LETTERS = lc.PromptSet(
    name="letters",
    source=["abc abc", "aab", "a cab", "bac abba", "cc ab", "ab"],
    target=["xyz xyz", "xxy", "x zyx", "yzx xyyx", "zz xy", "xy"],
)


def test_a_map_steers_a_plain_pipeline_and_its_denoiser_as_it_does_the_model(
    kind: str, pipe: Any
) -> None:
    plain = drawn(pipe)
    model = lc.load_model(str(pipe.config["_name_or_path"]), device="cpu")
    assert isinstance(model, lc.DiffusionModel)
    smap = norm_map(model)
    assert {site.partition(".")[0] for site in smap.sites} == {DENOISERS[kind]}
    with lc.steer(model, [(smap, 1.0)]):
        wanted = drawn(model.pipeline)
    assert (wanted != plain).any()
    for part in (pipe, getattr(pipe, DENOISERS[kind])):
        with lc.steer(part, [(smap, 1.0)]):
            # Its convolutions lie in memory in another order than the model's, so rounding differs.
            assert abs(drawn(pipe) - wanted).max() <= 1
        assert (drawn(pipe) == plain).all()


def enter(model: Any, widths: dict[str, int]) -> None:
    with lc.steer(model, [(random_map(widths, 0), 1.0)]):
        pass


def steered(module: nn.Module) -> list[str]:
    """Names of the modules whose `forward` is replaced."""
    return [name for name, part in module.named_modules() if "forward" in vars(part)]


def test_maps_of_one_or_several_parts_find_theirs() -> None:
    pipe = small_sd()
    norm = next(n for n, _ in pipe.text_encoder.named_modules() if n.endswith("final_layer_norm"))
    both = {"unet.conv_in": 8, f"text_encoder.{norm}": 16}
    with lc.steer(pipe, [(random_map(both, 0), 1.0)]):
        assert (steered(pipe.unet), steered(pipe.text_encoder)) == (["conv_in"], [norm])
    alone = random_map({f"text_encoder.{norm}": 16}, 0)
    with lc.steer(pipe.text_encoder, [(alone, 1.0)]):
        assert (steered(pipe.unet), steered(pipe.text_encoder)) == ([], [norm])
    with pytest.raises(lc.SiteError, match=r"unet and text_encoder.*UNet2DConditionModel"):
        enter(pipe.unet, both)
    for whole in (pipe, pipe.unet):
        with pytest.raises(lc.SiteError, match=r"nowhere.*1 of 2"):
            enter(whole, {"unet.conv_in": 8, "unet.nowhere": 8})
    with pytest.raises(lc.SiteError, match=r"unet\.conv_in"):
        enter(pipe.text_encoder, {"unet.conv_in": 8})
    with pytest.raises(lc.ConfigError, match="model is a str"):
        _module_of("pipe")
    assert steered(pipe.unet) == steered(pipe.text_encoder) == []


def test_a_map_of_a_language_model_is_found_on_its_layers(tiny: lc.LanguageModel) -> None:
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny.id)
    smap = lc.fit("mean-act", tiny, LETTERS)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        with lc.steer(tiny, [(smap, 1.0)]):
            wanted = tiny.module(ids).logits
        for part in (plain, plain.model):
            with lc.steer(part, [(smap, 1.0)]):
                torch.testing.assert_close(plain(ids).logits, wanted)
        assert not torch.allclose(plain(ids).logits, wanted)


def test_a_language_model_in_memory_is_the_one_that_loads_by_name(
    small_models: dict[str, Path],
) -> None:
    folder = str(small_models["llama"])
    named = lc.load_model(folder, device="cpu")
    module = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    before = module(ids).logits
    model = lc.load_model(module.train(), tokenizer=tokenizer)
    assert isinstance(model, lc.LanguageModel)
    assert isinstance(named, lc.LanguageModel)
    assert model.module is module
    assert (model.id, model.default_sites) == (folder, named.default_sites)
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(m.training for m in module.modules())
    assert torch.equal(module(ids).logits, before)
    maps = [lc.train(m, LETTERS, lc.TrainConfig(steps=3)).map for m in (model, named)]
    for site, affine in maps[0].sites.items():
        torch.testing.assert_close(affine, maps[1].sites[site])
    texts = [
        m.sweep(["abc"], [(maps[1], None)], [0, 1], max_new_tokens=4).texts for m in (model, named)
    ]
    assert texts[0] == texts[1]


def test_a_pipeline_in_memory_trains_draws_and_folds(kind: str, pipe: Any, tmp_path: Path) -> None:
    before = drawn(pipe)
    model = lc.load_model(pipe)
    assert isinstance(model, lc.DiffusionModel)
    assert model.id == str(pipe.config["_name_or_path"])
    assert model.pipeline is pipe
    assert not any(p.requires_grad for p in model.module.parameters())
    assert (drawn(pipe) == before).all()
    result = lc.train(model, LETTERS, lc.TrainConfig(steps=2, rate=1e-3, sites="norm"))
    assert result.losses[1] < result.losses[0]
    with lc.steer(pipe, [(result.map, 1.0)]):
        wanted = drawn(pipe)
    grid = model.sweep(["abc"], [(result.map, None)], [0, 1]).images
    assert (pixels(grid[0])[0] != pixels(grid[0])[1]).any()
    if kind == "flux":
        return
    folder = lc.fold(model, result.map, to=tmp_path / "folded")
    folded = DiffusionPipeline.from_pretrained(folder)
    folded.set_progress_bar_config(disable=True)
    assert abs(drawn(folded) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("device", "cpu"), ("dtype", "float16"), ("tiny_vae", True), ("home", Path("somewhere"))],
)
def test_settings_of_loading_are_refused_with_the_model_at_hand(field: str, value: Any) -> None:
    with pytest.raises(lc.ConfigError, match=f"{field} is .*{value}"):
        lc.load_model(small_sd(), **{field: value})


def test_other_things_than_models_that_generate_are_refused(
    small_models: dict[str, Path], tiny: lc.LanguageModel
) -> None:
    pipe, tokenizer = small_sd(), tiny.tokenizer
    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "intermediate_size": 16}  # fmt: skip
    gpt2 = transformers.GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2)
    t5 = transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1)
    xlnet = transformers.XLNetLMHeadModel(
        transformers.XLNetConfig(vocab_size=300, d_model=16, n_layer=1, n_head=2, d_inner=16)
    )
    for parameter in xlnet.parameters():
        parameter.data.normal_()
    wrong = {
        r"BertForMaskedLM \(bert\) is an encoder": transformers.BertForMaskedLM(
            transformers.BertConfig(**sizes)
        ),
        r"\(t5\) is a sequence-to-sequence": transformers.T5ForConditionalGeneration(t5),
        r"\(gpt2\) is a classifier": transformers.GPT2ForSequenceClassification(gpt2),
        "GPT2Model, without the head": transformers.GPT2Model(gpt2),
        # Only running it tells that it looks ahead.
        r"\(xlnet\) is an encoder": xlnet,
    }
    for message, module in wrong.items():
        with pytest.raises(lc.ModelError, match=message):
            lc.load_model(module.train(), tokenizer=tokenizer)
        assert all(p.requires_grad for p in module.parameters())
        assert module.training
    with pytest.raises(lc.ConfigError, match="tokenizer is missing"):
        lc.load_model(tiny.module)
    # Annotations are checked in tests, and not where users give something else.
    with pytest.raises(lc.ConfigError, match="tokenizer is a str"):
        _in_memory(tiny.module, "tokenizer", {})
    with pytest.raises(lc.ConfigError, match="tokenizer is given.*StableDiffusionPipeline"):
        lc.load_model(pipe, tokenizer=tokenizer)
    with pytest.raises(lc.ConfigError, match="tokenizer is given.*smollm2"):
        lc.load_model("smollm2", tokenizer=tokenizer)
    for other in (pipe.unet, tiny, nn.Linear(1, 1), None):
        with pytest.raises(lc.ModelError, match=f"is a {type(other).__name__}"):
            _in_memory(other, None, {})
    again = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(lc.ModelError, match=r"StableDiffusionImg2ImgPipeline.*FluxPipeline"):
        lc.load_model(again)
    with torch.device("meta"):
        pipe.unet = small_unet()
    with pytest.raises(lc.ModelError, match=r"lacks .* tensors.*unet\."):
        lc.load_model(pipe)
