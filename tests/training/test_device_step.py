"""A step leaves the device alone: it reads nothing back, and its rows may lie on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lineas_core as lc
from lineas_core.methods.variants.refine import Refinement
from lineas_core.training.graph import WARM_UP
from lineas_core.training.likelihood import LikelihoodTrainer
from lineas_core.training.loop import TrainingLoop
from lineas_core.training.update import MOMENTS, Stepped, gradient_step
from tests.helpers.models import random_map
from tests.helpers.pipelines import small_sd
from tests.helpers.reads import NoKernels, NoMethods

CONFIG = lc.TrainConfig(steps=12, rate=0.05, batch_size=4, holdout=0)


def rows_of(loop: TrainingLoop, *, on_device: bool) -> list[Any]:
    rows = [list(range(1, 1 + min(count, CONFIG.batch_size))) for count in loop.counts]
    return [torch.tensor(r) for r in rows] if on_device else rows


def step_unread(loop: TrainingLoop, drawn: Sequence[Any]) -> Tensor:
    """Run a step in which nothing may be read; returns the parameters after it."""
    if loop.config.rate is None:
        # The rate is measured before the first step, and read then.
        loop.step()
    with NoMethods(), NoKernels():
        loop.run_on_device(drawn)
    assert float(loop.map.support()) > 0
    return torch.cat([torch.cat([*affine]) for affine in loop.map.sites.values()])


def test_the_modes_notice_what_reads() -> None:
    z = torch.arange(3.0)
    for read in (
        lambda: z.sum().item(), lambda: bool(z.sum()), lambda: z.tolist(), lambda: z[z > 1],
        lambda: z.nonzero(), lambda: z.unique(), lambda: float(z[0]), lambda: z.cpu(),
    ):  # fmt: skip
        with pytest.raises(AssertionError), NoMethods(), NoKernels():
            read()


@pytest.fixture
def uneven(prompts: lc.PromptSet) -> lc.PromptSet:
    """More prompts on one side, each side of several lengths."""
    return replace(prompts, target=prompts.target[:5])


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rate": None},
        {"batch_size": 8},
        {"optimizer": "adamw", "gamma": 1e-3},
        {"gamma": 1e-3, "prox_step": "paper", "pooling": "last"},
        {"pooling": "max"},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_step_of_a_language_model_reads_nothing_back(
    small_models: dict[str, Path],
    uneven: lc.PromptSet,
    architecture: str,
    changes: dict[str, Any],
    on_device: bool,
) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    step_unread(*of(lc.Trainer(model, uneven, replace(CONFIG, **changes)), on_device))


def of(loop: TrainingLoop, on_device: bool) -> tuple[TrainingLoop, list[Any]]:
    return loop, rows_of(loop, on_device=on_device)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_step_of_an_image_model_reads_nothing_back(
    tmp_path: Path, prompts: lc.PromptSet, on_device: bool
) -> None:
    small_sd().save_pretrained(tmp_path)
    model = lc.load_model(str(tmp_path), device="cpu")
    step_unread(*of(lc.Trainer(model, prompts, replace(CONFIG, sites="norm")), on_device))


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("distance", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_step_with_a_likelihood_reads_nothing_back(
    small_models: dict[str, Path],
    uneven: lc.PromptSet,
    architecture: str,
    distance: float,
    on_device: bool,
) -> None:
    model = lc.load_model(str(small_models[architecture]), device="cpu")
    config = replace(CONFIG, distance=distance)
    step_unread(*of(LikelihoodTrainer(model, uneven, config), on_device))


def test_a_step_of_refinement_reads_nothing_back(
    tiny: lc.LanguageModel, uneven: lc.PromptSet
) -> None:
    widths = dict.fromkeys(tiny.sites("post_layernorm"), 16)
    maps = [(random_map(widths, seed, 0.1), uneven) for seed in (0, 1)]
    for on_device in (False, True):
        step_unread(*of(Refinement(tiny, maps, CONFIG), on_device))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "image"])
def test_rows_on_the_device_give_the_step_of_rows_on_the_host(
    tmp_path: Path, small_models: dict[str, Path], uneven: lc.PromptSet, kind: str
) -> None:
    if kind == "image":
        small_sd().save_pretrained(tmp_path)
    folder = tmp_path if kind == "image" else small_models[kind]
    model = lc.load_model(str(folder), device="cpu")
    config = replace(CONFIG, sites="norm" if kind == "image" else "")
    trainer = lc.Trainer if kind == "image" else LikelihoodTrainer
    host, device = (
        step_unread(*of(trainer(model, uneven, config), on_device)) for on_device in (False, True)
    )
    assert float((host - device).norm() / host.norm()) < 1e-4


def test_sites_of_text_encoders_ask_for_texts(tmp_path: Path, prompts: lc.PromptSet) -> None:
    small_sd().save_pretrained(tmp_path)
    model = lc.load_model(str(tmp_path), device="cpu")
    trainer = lc.Trainer(model, prompts, replace(CONFIG, sites="text_norm"))
    with pytest.raises(lc.SiteError, match="needs the texts"):
        trainer.run_on_device(rows_of(trainer, on_device=True))


@pytest.mark.parametrize("rule", MOMENTS)
def test_gradient_steps_are_those_of_torch(rule: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    live = torch.randn(50, generator=generator).requires_grad_()
    made = {
        "sgd": torch.optim.SGD,
        "heavy ball": partial(torch.optim.SGD, momentum=0.9),
        "adamw": torch.optim.AdamW,
    }
    other = made[rule]([live], lr=1.0)
    moments = tuple(torch.zeros(50) for _ in MOMENTS[rule])
    ours = Stepped(live.detach().clone(), moments)
    for step in range(1, 30):
        gradient, rate = torch.randn(50, generator=generator), 0.1 / step
        live.grad, other.param_groups[0]["lr"] = gradient.clone(), rate
        other.step()
        ours = gradient_step(rule, ours, gradient, torch.tensor([rate]), torch.tensor([step]))
        torch.testing.assert_close(ours.vector, live.detach(), rtol=1e-5, atol=1e-6)


def test_events_that_are_read_together_are_those_that_are_read_one_by_one(
    tiny: lc.LanguageModel, prompts: lc.PromptSet
) -> None:
    one, many = (lc.Trainer(tiny, prompts, CONFIG) for _ in range(2))
    many.steps_read = 5
    events = [list(one.run()), list(many.run())]
    for a, b in zip(*events, strict=True):
        assert (a.step, a.loss, a.support, a.loss_by_site) == (
            b.step, b.loss, b.support, b.loss_by_site,
        )  # fmt: skip
    assert one.losses == many.losses
    assert torch.equal(*(torch.cat([*t.state.params(t.sites)]) for t in (one, many)))


@pytest.mark.parametrize("steps_read", [1, 4, 64])
def test_a_run_that_goes_off_between_two_readings_keeps_the_same_map(
    tiny: lc.LanguageModel, prompts: lc.PromptSet, steps_read: int
) -> None:
    trainer = lc.Trainer(tiny, prompts, replace(CONFIG, rate=1e7))
    trainer.steps_read = steps_read
    with pytest.raises(lc.TrainingError, match="at lower and lower rates"):
        list(trainer.run())
    other = lc.Trainer(tiny, prompts, replace(CONFIG, rate=1e7))
    with pytest.raises(lc.TrainingError):
        list(other.run())
    assert trainer.losses == other.losses
    for key, tensor in trainer.state.tensors.items():
        assert torch.equal(tensor, other.state.tensors[key]), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batch_size", [4, 8])
def test_a_graph_of_the_step_trains_the_map_of_the_plain_step(
    small_models: dict[str, Path], prompts: lc.PromptSet, batch_size: int
) -> None:
    model = lc.load_model(str(small_models["llama"]), device="cuda")
    config = replace(CONFIG, batch_size=batch_size, steps=WARM_UP + 50)
    graphed, plain = (lc.Trainer(model, prompts, config) for _ in range(2))
    list(graphed.run())
    assert graphed.graphed
    for _ in range(config.steps):
        plain.run_on_device([plain.draw(count) for count in plain.counts])
    maps = [torch.cat([torch.cat([*a]) for a in t.map.sites.values()]) for t in (graphed, plain)]
    assert float((maps[0] - maps[1]).norm() / maps[1].norm()) < 1e-4
