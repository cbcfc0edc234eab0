"""Families that no preset knows, on small models of their real classes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import lineas_core as lc
from lineas_core.models.language.batching import batches_soundly, drops_rows
from tests.helpers.models import SIZES, save_checkpoint

PLAIN = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 257,
         "bos_token_id": 256, "eos_token_id": 257}  # fmt: skip
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}
MAPPED = transformers.CONFIG_MAPPING
# Family -> config, and whether its batches may be padded and lose rows.
FAMILIES = {
    "mamba": (MAPPED["mamba"](**PLAIN, state_size=8, time_step_rank=4, use_mambapy=False), False),
    "rwkv": (MAPPED["rwkv"](**PLAIN, attention_hidden_size=32, intermediate_size=48), False),
    "recurrent_gemma": (
        MAPPED["recurrent_gemma"](
            **PLAIN | {"num_hidden_layers": 3}, num_attention_heads=4, num_key_value_heads=1,
            head_dim=8, intermediate_size=48, lru_width=32, attention_window_size=8,
        ),
        False,
    ),
    "granitemoehybrid": (
        MAPPED["granitemoehybrid"](
            **PLAIN, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
            shared_intermediate_size=32, num_local_experts=2, num_experts_per_tok=1,
            mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_expand=2,
            layer_types=["mamba", "attention"],
        ),
        False,
    ),
    "mpt": (
        MAPPED["mpt"](d_model=32, n_heads=4, n_layers=2, vocab_size=300, max_seq_len=256),
        False,
    ),
    "qwen3": (MAPPED["qwen3"](**PLAIN, **HEADS), True),
}  # fmt: skip
OPENINGS = ["The", "A very long opening that goes on for rather more than a few words", "Hi there"]


def load(folder: Path, config: transformers.PretrainedConfig) -> lc.LanguageModel:
    model = lc.load_model(str(save_checkpoint(config, folder)), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_writes_what_its_prompts_do_alone(tmp_path: Path, family: str) -> None:
    config, padded = FAMILIES[family]
    model = load(tmp_path, config)
    assert drops_rows(model.module) is padded
    if family in ("rwkv", "recurrent_gemma", "qwen3"):
        for dtype in (torch.float32, torch.bfloat16):
            assert batches_soundly(copy.deepcopy(model.module).to(dtype), 0) is padded
    # A token in six ends a text, so that rows end early.
    model.module.generation_config.eos_token_id = list(range(0, 300, 6))
    prompts, seeds = OPENINGS * 4, list(range(12))
    together = model.generate(prompts, seed=seeds, max_new_tokens=10)
    alone = [
        model.generate([prompt], seed=seed, max_new_tokens=10)[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert together == alone
    assert len(set(map(len, together))) > 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_embedded_model_runs_in_batches(smollm2: lc.LanguageModel, dtype: str) -> None:
    # Run singly, its texts would take ten times as long.
    model = lc.load_model("smollm2", device="cpu", dtype=dtype)
    passes: list[int] = []
    prompts, seeds = ["Once", "Once upon a time"] * 4, list(range(8))
    # The first call finds out.
    model.generate(prompts, seed=seeds, max_new_tokens=4)
    handle = model.module.register_forward_hook(lambda *_: passes.append(1))
    model.generate(prompts, seed=seeds, max_new_tokens=4)
    handle.remove()
    assert len(passes) <= 5


SITES = {
    "mamba": r"backbone\.layers\.\d+\.norm",
    "rwkv": r"rwkv\.blocks\.\d+\.ln2",
    "recurrent_gemma": r"model\.layers\.\d+\.channel_pre_norm",
    "mpt": r"transformer\.blocks\.\d+\.norm_2",
    "gptj": r"transformer\.h\.\d+\.ln_1",
    "lfm2": r"model\.layers\.\d+\.ffn_norm",
    "vaultgemma": r"model\.layers\.\d+\.pre_feedforward_layernorm",
}
OTHERS = {
    "gptj": MAPPED["gptj"](vocab_size=300, n_embd=32, n_layer=2, n_head=4, rotary_dim=8),
    "lfm2": MAPPED["lfm2"](
        **PLAIN, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        layer_types=["conv", "full_attention"],
    ),
    "vaultgemma": MAPPED["vaultgemma"](**PLAIN, **HEADS),
}  # fmt: skip


@pytest.mark.parametrize("family", SITES)
def test_default_sites_are_the_norms_before_the_mlp(
    tmp_path: Path, family: str, prompts: lc.PromptSet
) -> None:
    config = OTHERS[family] if family in OTHERS else FAMILIES[family][0]
    model = load(tmp_path, config)
    assert model.sites(model.default_sites) == model.sites(SITES[family])
    found = lc.train(model, prompts, lc.TrainConfig(steps=2, rate=1e-3, holdout=0)).losses
    assert found[1] < found[0]


def test_towers_that_text_does_not_reach_are_no_default_sites(
    tmp_path: Path, prompts: lc.PromptSet
) -> None:
    text = MAPPED["gemma3_text"](**PLAIN, **HEADS, sliding_window=8)
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=seen, mm_tokens_per_image=4, image_token_index=298,
        boi_token_index=297, eoi_token_index=296,
    )  # fmt: skip
    model = load(tmp_path, config)
    sites = model.sites(model.default_sites)
    assert sites
    assert not [site for site in sites if "vision" in site]
    assert lc.train(model, prompts, lc.TrainConfig(steps=1, rate=1e-6, holdout=0)).losses


@pytest.mark.parametrize("family", ["qwen3", "hunyuan_v1_dense"])
def test_norms_of_queries_are_pooled_over_real_tokens_and_steered_by_dimension(
    tmp_path: Path, family: str
) -> None:
    model = load(tmp_path, MAPPED[family](**PLAIN, **HEADS))
    (site, *_) = model.sites(r".*self_attn\.(q|query)_(layer)?norm")
    from lineas_core.activations import pooled_activations

    def pooled(lines: list[str], maps: dict[str, lc.Affine] | None = None) -> torch.Tensor:
        return pooled_activations(model, model.prepare(lines), [site], maps=maps)[site]

    short, longer = "Go", "Go on until the end of it"
    torch.testing.assert_close(pooled([short, longer])[0], pooled([short])[0])
    assert pooled([short]).shape == (1, 8)
    shift = torch.arange(8.0)
    smap = lc.SteeringMap({site: lc.Affine(torch.ones(8), shift)})
    with lc.steer(model, [(smap, 1.0)]):
        moved = pooled([longer])
    torch.testing.assert_close(moved, pooled([longer]) + shift)


def test_a_checkpoint_that_lacks_tensors_is_refused_with_their_names(tmp_path: Path) -> None:
    folder = save_checkpoint(MAPPED["llama"](**SIZES), tmp_path)
    file = folder / "model.safetensors"
    kept = {name: z for name, z in load_file(file).items() if ".layers.1." not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(lc.ModelError, match=r"lacks 9 tensors.*model\.layers\.1\.input_layernorm"):
        lc.load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (transformers.BertConfig(**PLAIN, num_attention_heads=4, intermediate_size=48), "encoder"),
        (transformers.T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=1,
                               num_heads=4), "sequence-to-sequence"),
        (transformers.LlamaConfig(**SIZES, architectures=["LlamaForSequenceClassification"]),
         "classifier"),
        (transformers.ViTConfig(hidden_size=32), "no model that continues texts"),
    ],
)  # fmt: skip
def test_what_continues_no_text_is_refused_by_its_kind(
    tmp_path: Path, config: transformers.PretrainedConfig, kind: str
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(lc.ModelError, match=rf"{config.model_type}\) is an? .*{kind}|is {kind}"):
        lc.load_model(str(tmp_path), device="cpu")


def test_code_of_a_checkpoint_never_runs_even_if_somebody_says_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(MAPPED["llama"](**SIZES), tmp_path)
    ran = tmp_path / "ran"
    told = json.loads((folder / "config.json").read_text())
    told |= {"model_type": "xnew", "auto_map": {"AutoConfig": "configuration_x.XConfig"}}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "configuration_x.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig\n"
        "class XConfig(LlamaConfig):\n    model_type = 'xnew'\n"
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(lc.ModelError, match="never run here"):
        lc.load_model(str(folder), device="cpu")
    assert not ran.exists()


def test_half_precision_becomes_single_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineas_core.system.devices.cpu_has_bfloat16", lambda: False)
    for dtype in ("float16", "bfloat16"):
        folder = save_checkpoint(MAPPED["llama"](**SIZES), tmp_path / dtype, getattr(torch, dtype))
        assert lc.load_model(str(folder), device="cpu").module.dtype == torch.float32
        kept = lc.load_model(str(folder), device="cpu", dtype=dtype)
        assert kept.module.dtype == getattr(torch, dtype)


def test_nothing_is_written_behind_the_end_that_a_tokenizer_adds(
    tmp_path: Path, tiny: lc.LanguageModel
) -> None:
    folder = save_checkpoint(MAPPED["llama"](**SIZES), tmp_path)
    plain = lc.load_model(str(folder), device="cpu").generate(["hi"], max_new_tokens=5)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    end = {"SpecialToken": {"id": "<eos>", "type_id": 0}}
    sides = [{"Sequence": {"id": side, "type_id": 0}} for side in "AB"]
    told["post_processor"] = {
        "type": "TemplateProcessing", "single": [sides[0], end], "pair": [*sides, end],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [257], "tokens": ["<eos>"]}},
    }  # fmt: skip
    file.write_text(json.dumps(told))
    ending = lc.load_model(str(folder), device="cpu")
    assert ending.tokenizer("hi")["input_ids"][-1] == 257
    assert ending.generate(["hi"], max_new_tokens=5) == plain


def test_padding_that_has_no_embedding_does_no_harm(tmp_path: Path) -> None:
    model = load(tmp_path, MAPPED["llama"](**SIZES))
    model.tokenizer.add_tokens([f"<{n}>" for n in range(100)])
    model.tokenizer.pad_token = "<99>"
    assert model.tokenizer.pad_token_id >= 300
    alone = [model.generate([line], max_new_tokens=5)[0] for line in OPENINGS]
    assert model.generate(OPENINGS, max_new_tokens=5) == alone


def test_a_copy_of_a_model_writes_what_the_model_does(tiny: lc.LanguageModel) -> None:
    tiny.generate(OPENINGS, max_new_tokens=3)
    copied = copy.deepcopy(tiny)
    assert copied.module is not tiny.module
    assert copied.generate(OPENINGS, max_new_tokens=3) == tiny.generate(OPENINGS, max_new_tokens=3)


def test_one_text_in_place_of_a_list_is_refused(tiny: lc.LanguageModel) -> None:
    for call in (tiny.generate, tiny.prepare, lambda text: tiny.sweep(text, [], [0.0])):
        with pytest.raises(lc.ConfigError, match="prompts is the text 'abc'"):
            call("abc")
