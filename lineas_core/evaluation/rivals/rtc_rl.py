"""RTC-RL, the oracle of LinEAS's toxicity table: LoRA trained by reinforcement learning.

Unlike every other method it is trained on the score itself: the reward of a completion is one minus
its toxicity. The usual algorithm is PPO, but TRL has removed it, and the releases that have it need
transformers below 5. This is GRPO (Shao et al., DeepSeekMath, 2024): PPO's clipped objective and
a KL penalty towards the untouched model, with the mean reward of a group of completions of the same
prompt as the baseline instead of a learned value model.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback

from lineas_core.errors import ConfigError, PromptError
from lineas_core.metrics.toxicity import toxicity
from lineas_core.models.language.model import LanguageModel


@dataclass(frozen=True)
class RtcRlConfig:
    """Training settings of the adapter.

    Args:
        steps: gradient steps, >= 1.
        updates: gradient steps on the same completions, >= 1; clipping only has an effect after
            the first.
        rate: AdamW's initial learning rate, > 0; it decays linearly to 0.
        rank: of LoRA's matrices, >= 1; their product is scaled by 2.
        group: completions per prompt, whose mean reward is the baseline, >= 2.
        prompts: prompts per step, >= 1.
        tokens: maximum tokens per completion.
        penalty: weight of the KL divergence from the untouched model, >= 0.
        scorer: see `load_toxicity_scorer`.
        seed: of initial values, order and sampling.

    Raises:
        ConfigError: a value is out of range; the message names it.
    """

    steps: int = 100
    updates: int = 2
    rate: float = 1e-4
    rank: int = 8
    group: int = 8
    prompts: int = 4
    tokens: int = 32
    penalty: float = 0.04
    scorer: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "updates": 1, "rank": 1, "group": 2, "prompts": 1, "tokens": 1}
        for name, value in {**least, "penalty": 0}.items():
            if not value <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be {value} or more.")
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"rate is {self.rate}; it must be a number above 0.")


@dataclass(frozen=True)
class RtcRl:
    """A trained adapter.

    Attributes:
        weights: of LoRA, by name, on the CPU.
        rank: of LoRA's matrices.
        rewards: mean reward of each batch of completions, in the order of training.
    """

    weights: Mapping[str, Tensor]
    rank: int
    rewards: tuple[float, ...] = ()

    @contextmanager
    def applied(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Within the block `model` has the adapter, in every thread; it is removed afterwards.

        Raises:
            ConfigError: peft is not installed.
        """
        peft = _rival("peft")
        adapted = peft.get_peft_model(model.module, _lora(self.rank))
        try:
            peft.set_peft_model_state_dict(adapted, self.weights)
            adapted.eval().requires_grad_(False)
            yield model
        finally:
            adapted.unload()


def fit_rtc_rl(model: LanguageModel, prompts: Sequence[str], config: RtcRlConfig) -> RtcRl:
    """Train the adapter so that completions of `prompts` score low in toxicity.

    Args:
        model: not modified; a copy of it is trained.
        prompts: openings to complete, without a chat template.
        config: the settings.

    Raises:
        ConfigError: trl or peft is not installed.
        ModelError: the scorer cannot be loaded.
        PromptError: there are fewer prompts than a step needs.
    """
    if len(prompts) < config.prompts:
        # The trainer would drop the only batch as incomplete, and learn nothing.
        raise PromptError(
            f"There are {len(prompts)} prompts to train on, and a step takes {config.prompts}; "
            "give more prompts, or set prompts lower."
        )
    trl, peft, datasets = (_rival(name) for name in ("trl", "peft", "datasets"))
    rewards: list[float] = []

    def reward(completions: list[str], **others: Any) -> list[float]:
        found = [1 - score for score in toxicity(completions, scorer=config.scorer)]
        rewards.append(sum(found) / len(found))
        return found

    with (
        tempfile.TemporaryDirectory() as folder,
        _without_telemetry(),
        torch.random.fork_rng(),
    ):
        torch.manual_seed(config.seed)
        settings = trl.GRPOConfig(
            output_dir=folder,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            activation_checkpointing=False,
            use_cpu=model.device.type == "cpu",
            # No mixed precision: the copy keeps the model's dtype; LoRA's matrices are float32.
            bf16=False,
            max_steps=config.steps,
            num_iterations=config.updates,
            per_device_train_batch_size=config.group * config.prompts,
            num_generations=config.group,
            max_completion_length=config.tokens,
            learning_rate=config.rate,
            beta=config.penalty,
            loss_type="grpo",
            top_k=50,
            seed=config.seed,
        )
        # Pass copies: the trainer modifies the configs of the model and the tokenizer.
        trainer = trl.GRPOTrainer(
            model=copy.deepcopy(model.module),
            processing_class=copy.deepcopy(model.tokenizer),
            reward_funcs=reward,
            args=settings,
            train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in prompts]),
            peft_config=_lora(config.rank),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        weights = peft.get_peft_model_state_dict(trainer.model)
    return RtcRl(
        {name: tensor.detach().cpu().clone() for name, tensor in weights.items()},
        config.rank,
        tuple(rewards),
    )


def _lora(rank: int) -> Any:
    return _rival("peft").LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Disable TRL's telemetry: it reports to the hub when a trainer is created, without consent."""
    constants: Any = import_module("huggingface_hub.constants")
    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def _rival(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"RTC-RL needs {name}, which cannot be imported ({error}); run "
            "pip install -r requirements-eval.txt and then "
            "pip install --no-deps -r requirements-rivals.txt."
        ) from error
