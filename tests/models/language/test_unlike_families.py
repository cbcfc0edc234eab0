"""Families that differ from the others in how they run, on small models of their real classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import lineas_core as lc
from lineas_core.activations import pool, pooled_activations
from tests.helpers.models import save_checkpoint
from tools.architectures.small import save_small, small_config

OPENINGS = ["The", "A very long opening that goes on for rather more than a few words", "Hi there"]


def load(family: str, folder: Path) -> lc.LanguageModel:
    save_small(small_config(family), folder)
    model = lc.load_model(str(folder), device="cpu")
    assert isinstance(model, lc.LanguageModel)
    return model


def test_tokens_in_one_dimension_are_pooled_by_prompt_and_steered_by_row(tmp_path: Path) -> None:
    model = load("opt", tmp_path)
    sites = model.sites(model.default_sites)
    flat: list[torch.Tensor] = []
    handle = model.module.get_submodule(sites[0]).register_forward_hook(
        lambda module, inputs, output: flat.append(output)
    )
    together = pooled_activations(model, model.prepare(OPENINGS), sites)
    handle.remove()
    assert flat[0].ndim == 2
    for row, prompt in enumerate(OPENINGS):
        alone = pooled_activations(model, model.prepare([prompt]), sites)
        for site in sites:
            torch.testing.assert_close(together[site][row], alone[site][0])
    shift = torch.linspace(-1, 1, 32)
    smap = lc.SteeringMap({site: lc.Affine(torch.ones(32), shift) for site in sites})
    strengths = torch.tensor([0.0, 1.0, 2.0])
    texts = model.generate(OPENINGS, [(smap, strengths)], seed=0, max_new_tokens=6)
    for prompt, strength, text in zip(OPENINGS, strengths.tolist(), texts, strict=True):
        assert model.generate([prompt], [(smap, strength)], max_new_tokens=6) == [text]
    assert model.generate(OPENINGS, seed=0, max_new_tokens=6) != texts


def test_rows_of_tokens_are_pooled_as_they_are_in_three_dimensions() -> None:
    z = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    for pooling in ("mean", "last", "max"):
        torch.testing.assert_close(pool(z.flatten(0, 1), pooling, mask), pool(z, pooling, mask))
    prompts = torch.randn(2, 3)
    torch.testing.assert_close(pool(prompts, "mean", mask), prompts)
    # As many rows as an expert was given tokens.
    with pytest.raises(lc.SiteError, match=r"\(5, 3\) for 2 rows of 4 tokens"):
        pool(torch.randn(5, 3), "mean", mask)


@pytest.mark.parametrize(
    ("family", "sites"),
    [
        ("git", r"git\.encoder\.layer\.\d+\.attention\.output\.LayerNorm"),
        ("longcat_flash", r"model\.layers\.\d+\.post_attention_layernorm\.1"),
        ("zamba2", r"model\.layers\.\d+\.(mamba_decoder\.)?input_layernorm"),
    ],
)
def test_norms_deep_in_a_layer_are_default_sites(tmp_path: Path, family: str, sites: str) -> None:
    model = load(family, tmp_path)
    assert model.sites(model.default_sites) == model.sites(sites)


def test_the_whole_model_is_no_site(tiny: lc.LanguageModel) -> None:
    assert "" not in tiny.sites(".*")
    with pytest.raises(lc.SiteError, match="sites is ''"):
        tiny.sites("")


@pytest.mark.parametrize("family", ["bert-generation", "xlnet"])
def test_a_model_that_looks_ahead_is_refused_as_an_encoder(tmp_path: Path, family: str) -> None:
    with pytest.raises(lc.ModelError, match=rf"\({family}\) is an encoder"):
        load(family, tmp_path)


def test_the_same_network_with_a_causal_mask_is_not(tmp_path: Path) -> None:
    config = small_config("bert-generation")
    config.is_decoder = True
    save_small(config, tmp_path)
    assert lc.load_model(str(tmp_path), device="cpu").generate(["Hi"], max_new_tokens=2)


def test_a_drafter_of_another_model_is_refused(tmp_path: Path) -> None:
    small_config("gemma4_assistant").save_pretrained(tmp_path)
    with pytest.raises(lc.ModelError, match=r"\(gemma4_assistant\) is a drafter"):
        lc.load_model(str(tmp_path), device="cpu")


def test_a_model_that_cannot_read_text_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise TypeError("pixel_values is None")

    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=256, eos_token_id=257,
    )  # fmt: skip
    folder = save_checkpoint(config, tmp_path)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", fails)
    with pytest.raises(lc.ModelError, match=r"\(llama\) .*TypeError: pixel_values is None"):
        lc.load_model(str(folder), device="cpu")


def test_a_family_that_transformers_cannot_generate_with_trains_and_says_so(
    tmp_path: Path, prompts: lc.PromptSet
) -> None:
    model = load("blt", tmp_path)
    assert lc.train(model, prompts, lc.TrainConfig(steps=2)).losses
    with pytest.raises(lc.ModelError, match=r"\(blt\) writes no texts.*num_hidden_layers"):
        model.generate(["Hi"], max_new_tokens=2)


def test_layers_that_run_without_gradients_are_refused(
    tmp_path: Path, prompts: lc.PromptSet
) -> None:
    model = load("reformer", tmp_path)
    with pytest.raises(lc.SiteError, match=r"feed_forward\.layer_norm' runs without gradients"):
        lc.train(model, prompts, lc.TrainConfig(steps=1))
    # A closed form needs none.
    assert lc.fit("mean-act", model, prompts).sites
