from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, RobertaForSequenceClassification

import lineas_core as lc
from lineas_core.evaluation.cells import Bench
from lineas_core.evaluation.rivals.reft import (
    Reft,
    ReftConfig,
    fit_reft,
    layer_names,
    new_intervention,
)
from lineas_core.evaluation.rivals.rtc_rl import RtcRl, RtcRlConfig, fit_rtc_rl
from lineas_core.evaluation.tables.rivals import TABLE, RivalSizes
from lineas_core.hooks import site_hooks
from tests.metrics.test_toxicity import save_small_classifier

# peft and trl use settings that transformers has renamed.
pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.thorough]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: thousands of matrix products are too small to parallelise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logits_of(model: lc.LanguageModel, texts: list[str]) -> Tensor:
    batch = model.prepare(texts)
    with torch.no_grad():
        found: Tensor = model.module(batch.ids, attention_mask=batch.mask.long()).logits
    return found


def weights_of(model: lc.LanguageModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[n], other[n]) for n in one)


class TestReft:
    @pytest.fixture(autouse=True)
    def needs_pyreft(self) -> None:
        pytest.importorskip("pyreft")

    @pytest.fixture
    def reft(self, tiny: lc.LanguageModel, prompts: lc.PromptSet) -> Reft:
        config = ReftConfig(layers=(0, 2), rank=3, steps=3, rate=0.05, batch_size=4)
        return fit_reft(tiny, prompts.target, config)

    def test_layers_put_out_what_the_equation_says(
        self, tiny: lc.LanguageModel, reft: Reft
    ) -> None:
        name = "model.layers.0"
        part: Any = reft.interventions[name]
        found: list[Tensor] = []

        def record(z: Tensor) -> Tensor:
            found.append(z.detach().double())
            return z

        with site_hooks(tiny.module, {name: record}):
            logits_of(tiny, ["xyz", "abc"])
        with reft.applied(tiny), site_hooks(tiny.module, {name: record}):
            logits_of(tiny, ["xyz", "abc"])
        h, changed = found
        r = part.rotate_layer.weight.double().T
        w, b = part.learned_source.weight.double(), part.learned_source.bias.double()
        torch.testing.assert_close(r @ r.T, torch.eye(3).double(), atol=1e-5, rtol=0)
        expected = h + (h @ w.T + b - h @ r.T) @ r
        torch.testing.assert_close(changed, expected, atol=1e-5, rtol=1e-5)
        assert (changed - h).abs().max() > 0.1

    def test_logits_are_those_of_pyreft(self, tiny: lc.LanguageModel, reft: Reft) -> None:
        import pyreft

        parts = list(reft.interventions.values())
        theirs = pyreft.get_reft_model(
            copy.deepcopy(tiny.module),
            pyreft.ReftConfig(
                representations=[
                    {
                        "layer": layer,
                        "component": "block_output",
                        "low_rank_dimension": 3,
                        "intervention": part,
                    }
                    for layer, part in zip((0, 2), parts, strict=True)
                ]
            ),
            set_device=False,
        )
        batch = tiny.prepare(["xyz zyx x", "yxz xyz a"])
        everywhere = [[list(range(batch.ids.shape[1]))] * 2] * 2
        _, expected = theirs(
            {"input_ids": batch.ids, "attention_mask": batch.mask.long()},
            unit_locations={"sources->base": (None, everywhere)},
        )
        with reft.applied(tiny):
            found = logits_of(tiny, ["xyz zyx x", "yxz xyz a"])
        torch.testing.assert_close(found, expected.logits)
        assert (found - logits_of(tiny, ["xyz zyx x", "yxz xyz a"])).abs().max() > 0.1

    def test_training_lowers_the_loss_and_leaves_the_model_alone(
        self, tiny: lc.LanguageModel, prompts: lc.PromptSet
    ) -> None:
        weights, logits = weights_of(tiny), logits_of(tiny, prompts.target)
        random = torch.random.get_rng_state()
        config = ReftConfig(rank=4, steps=20, rate=0.02)
        reft = fit_reft(tiny, prompts.target, config)
        assert reft.losses[-1] < 0.7 * reft.losses[0]
        again = fit_reft(tiny, prompts.target, config)
        assert again.losses == reft.losses
        with reft.applied(tiny):
            steered = tiny.generate(["xy"], seed=1, max_new_tokens=8)
        assert steered != tiny.generate(["xy"], seed=1, max_new_tokens=8)
        assert torch.equal(torch.random.get_rng_state(), random)
        assert same(weights_of(tiny), weights)
        assert torch.equal(logits_of(tiny, prompts.target), logits)
        assert all(p.grad is None for p in tiny.module.parameters())

    def test_the_loss_is_that_of_the_next_token(
        self, tiny: lc.LanguageModel, prompts: lc.PromptSet
    ) -> None:
        reft = fit_reft(tiny, prompts.target, ReftConfig(steps=1, rate=1e-12))
        with reft.applied(tiny):
            expected = torch.cat(tiny.token_losses(prompts.target)).mean()
        assert reft.losses == pytest.approx((expected.item(),), rel=1e-5)

    def test_a_model_in_bfloat16_stays_in_it(self, small_models: dict[str, Path]) -> None:
        model = lc.load_model(str(small_models["gpt2"]), device="cpu", dtype="bfloat16")
        assert isinstance(model, lc.LanguageModel)
        reft = fit_reft(model, ["xyz zyx", "zzy"], ReftConfig(steps=1))
        assert list(reft.interventions) == [f"transformer.h.{i}" for i in range(3)]
        with reft.applied(model):
            assert logits_of(model, ["xyz"]).dtype == torch.bfloat16

    def test_a_rank_above_the_width_is_refused(self, tiny: lc.LanguageModel) -> None:
        with pytest.raises(lc.ConfigError, match=r"rank is 17; .* has 16 neurons"):
            new_intervention(tiny, 17)


def test_reft_names_what_is_wrong(tiny: lc.LanguageModel) -> None:
    with pytest.raises(lc.ConfigError, match="steps is 0; it must be 1 or more"):
        ReftConfig(steps=0)
    with pytest.raises(lc.ConfigError, match="rate is nan"):
        ReftConfig(rate=float("nan"))
    with pytest.raises(lc.SiteError, match="no layer 3; choose from 0 to 2"):
        fit_reft(tiny, ["xyz"], ReftConfig(layers=(1, 3)))


def test_missing_packages_are_named(
    tiny: lc.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyreft", "trl"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(lc.ConfigError, match=r"LoReFT needs pyreft.*requirements-rivals\.txt"):
        fit_reft(tiny, ["xyz"], ReftConfig())
    with pytest.raises(lc.ConfigError, match=r"RTC-RL needs trl.*requirements-rivals\.txt"):
        fit_rtc_rl(tiny, ["xyz"], RtcRlConfig(prompts=1))


def test_every_architecture_has_its_layers(small_models: dict[str, Path]) -> None:
    for name, folder in small_models.items():
        model = lc.load_model(str(folder), device="cpu")
        assert isinstance(model, lc.LanguageModel)
        prefix = "transformer.h" if name == "gpt2" else "model.layers"
        assert layer_names(model) == [f"{prefix}.{i}" for i in range(3)]


class Watch:
    """Records files opened for writing and network connections while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.written: list[str] = []
        self.connected: list[Any] = []
        # Audit hooks cannot be removed, so this one does nothing while it is off.
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if writes or event in ("os.mkdir", "os.rename"):
            self.written.append(str(args[0]))
        elif event in ("socket.connect", "socket.getaddrinfo"):
            self.connected.append(args)


def sharpen(folder: Path, texts: list[str]) -> None:
    """Make the classifier score about half of the texts as toxic, most of them clearly."""
    classifier = RobertaForSequenceClassification.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    last = classifier.classifier.out_proj
    with torch.no_grad():
        odds = classifier(**tokens).logits.diff()
        last.weight *= 3 / odds.std()
        last.bias.zero_()
        last.bias[1] = -classifier(**tokens).logits.diff().median()
    classifier.save_pretrained(folder)


@pytest.fixture(scope="module")
def trained(
    tiny: lc.LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RtcRl, Watch, Path]:
    """An adapter after two steps, a record of what training wrote, and the allowed folder."""
    for name in ("trl", "peft", "datasets"):
        pytest.importorskip(name)
    # Import first, so that files written by imports, such as compiled modules, do not count.
    import peft  # noqa: F401
    from trl import GRPOConfig, GRPOTrainer  # noqa: F401

    # Not the linear bag-of-words scorer, which gives all texts of the small model the same score.
    scorer = save_small_classifier(tmp_path_factory.mktemp("scorer"), {0: "fine", 1: "toxic"})
    sharpen(scorer, tiny.generate(["abc", "xyz"] * 32, seed=list(range(64)), max_new_tokens=1))
    config = RtcRlConfig(
        steps=40, rate=0.1, rank=2, group=16, prompts=2, tokens=1, scorer=str(scorer)
    )
    folder, watch = tmp_path_factory.mktemp("rl"), Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        patch.chdir(folder)
        watch.on = True
        adapter = fit_rtc_rl(tiny, ["abc", "xyz"], config)
        watch.on = False
    return adapter, watch, folder


class TestRtcRl:
    def test_training_stays_on_this_machine_and_in_its_folder(
        self, trained: tuple[RtcRl, Watch, Path]
    ) -> None:
        _, watch, folder = trained
        assert watch.connected == []
        assert watch.written
        outside = [f for f in watch.written if not Path(f).is_relative_to(folder)]
        assert [f for f in outside if "__pycache__" not in f and not f.startswith("/dev/")] == []
        assert list(folder.iterdir()) == []

    def test_completions_become_less_toxic(self, trained: tuple[RtcRl, Watch, Path]) -> None:
        rewards = trained[0].rewards
        # Two steps on each batch of completions.
        assert len(rewards) == 20
        assert fmean(rewards[-5:]) > fmean(rewards[:3]) + 0.1

    def test_the_model_is_as_it_was_once_the_adapter_is_off(
        self, tiny: lc.LanguageModel, trained: tuple[RtcRl, Watch, Path], small_models: Any
    ) -> None:
        fresh = lc.load_model(str(small_models["llama"]), device="cpu")
        assert isinstance(fresh, lc.LanguageModel)
        texts = ["abc", "xyz"]
        modules = [(name, type(part)) for name, part in tiny.module.named_modules()]
        for _ in range(2):
            with trained[0].applied(tiny) as steered:
                assert steered is tiny
                changed = logits_of(tiny, texts)
            assert (changed - logits_of(fresh, texts)).abs().max() > 1e-3
        with pytest.raises(KeyError, match="inside"), trained[0].applied(tiny):
            raise KeyError("inside")
        assert torch.equal(logits_of(tiny, texts), logits_of(fresh, texts))
        assert same(weights_of(tiny), weights_of(fresh))
        assert [(name, type(part)) for name, part in tiny.module.named_modules()] == modules
        assert vars(tiny.module).keys() == vars(fresh.module).keys()
        assert tiny.module.config.to_dict() == fresh.module.config.to_dict()
        assert not any(p.requires_grad for p in tiny.module.parameters())
        assert not tiny.module.training

    def test_the_adapter_adds_the_product_of_its_matrices(
        self, tiny: lc.LanguageModel, trained: tuple[RtcRl, Watch, Path]
    ) -> None:
        adapter = trained[0]
        by_hand = copy.deepcopy(tiny)
        names = {name.rpartition(".lora_")[0] for name in adapter.weights}
        assert len(names) == 3 * 7
        for name in names:
            a, b = (adapter.weights[f"{name}.lora_{part}.weight"] for part in "AB")
            linear = by_hand.module.get_submodule(name.removeprefix("base_model.model."))
            linear.weight.data += 2.0 * b @ a
        with adapter.applied(tiny):
            found = logits_of(tiny, ["abc", "xyzzy"])
        torch.testing.assert_close(found, logits_of(by_hand, ["abc", "xyzzy"]))
        assert (found - logits_of(tiny, ["abc", "xyzzy"])).abs().max() > 0.1

    def test_rl_names_what_is_wrong(self, tiny: lc.LanguageModel) -> None:
        with pytest.raises(lc.ConfigError, match="group is 1; it must be 2 or more"):
            RtcRlConfig(group=1)
        with pytest.raises(lc.ConfigError, match="rate is 0"):
            RtcRlConfig(rate=0.0)
        with pytest.raises(lc.PromptError, match="0 prompts to train on, and a step takes 4"):
            fit_rtc_rl(tiny, [], RtcRlConfig())


def test_the_table_has_every_method(tiny: lc.LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("pyreft")
    bench = Bench(tiny, tmp_path)
    sizes = RivalSizes(
        concepts=("day", "night"), methods=("lin-act",), completions=8, tokens=8, reft_steps=2
    )
    results = TABLE.measure(bench, sizes, [0, 1])
    assert len(results) == 2 * 2 * 4
    assert set(results["method"]) == {"untouched", "lin-act", "loreft"}
    one = results[(results["concept"] == "day") & (results["seed"] == 0)]
    assert list(one["strength"]) == [0, 0.5, 1, 1]
    assert one["perplexity"].is_unique
    # The untouched model does not depend on the concept; its completions depend on the seed.
    untouched = results[results["method"] == "untouched"].groupby("seed")["perplexity"]
    assert untouched.nunique().tolist() == [1, 1]
    assert results[results["method"] == "untouched"]["perplexity"].nunique() == 2
    lines = TABLE.write(results).splitlines()
    assert lines[0] == "| concept | method | strength | presence | perplexity | fit |"
    assert len(lines) == 2 + 2 * 4 + 2
    figure = pytest.importorskip("matplotlib.figure").Figure()
    TABLE.draw(results, figure)
    assert len(figure.axes) == 2


def test_the_table_has_the_reward_before_and_after(tiny: lc.LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    openings = tmp_path / "openings.txt"
    openings.write_text("abc\nxyz\n")
    texts = str(openings)
    sizes = RivalSizes(concepts=(), completions=3, tokens=4, rl_steps=1, rl_texts=(texts,))
    results = TABLE.measure(Bench(tiny, tmp_path), sizes, [0])
    assert list(results["method"]) == ["untouched", "rtc-rl"]
    assert results["reward"].between(0, 1).all()
    openings.write_text("abc\n")
    with pytest.raises(lc.ConfigError, match="gives 1 opening"):
        TABLE.measure(Bench(tiny, tmp_path / "other"), sizes, [0])
