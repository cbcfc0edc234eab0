"""LoReFT (Wu et al., ReFT: Representation Finetuning for Language Models, NeurIPS 2024).

    T(h) = h + R^T (W h + b - R h)                     R: (rank, d), orthonormal rows

at the output of the chosen layers, at all positions. Unlike the maps of this library it mixes
neurons and has no strength. It is trained to maximise the likelihood of the target sentences, so it
needs no source. The interventions are pyreft's own modules; they are attached with hooks like maps,
so that generation, seeds and perplexity work as for every other method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lineas_core.errors import ConfigError, SiteError, TrainingError
from lineas_core.hooks import site_hooks
from lineas_core.models.language.model import LanguageModel


@dataclass(frozen=True)
class ReftConfig:
    """Training settings of LoReFT.

    Args:
        layers: indices of the layers, from 0; if empty, the three layers at a quarter, half and
            three quarters of the depth. Random initial values in every layer would break a small
            model before training begins.
        rank: of R, 1 to the width of the model.
        steps: gradient steps, >= 1.
        rate: AdamW's initial learning rate, > 0; it decays linearly to 0.
        batch_size: sentences per step, drawn without replacement.
        seed: of the initial values and of the draw.

    Raises:
        ConfigError: a value is out of range; the message names it.
    """

    layers: tuple[int, ...] = ()
    rank: int = 4
    steps: int = 30
    rate: float = 1e-3
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"rate is {self.rate}; it must be a number above 0.")


@dataclass(frozen=True)
class Reft:
    """Trained interventions.

    Attributes:
        interventions: layer's module name -> pyreft's LoreftIntervention.
        losses: mean negative log-likelihood per token, in nats, before each step.
    """

    interventions: Mapping[str, nn.Module]
    losses: tuple[float, ...] = ()

    @contextmanager
    def applied(self, model: LanguageModel) -> Iterator[None]:
        """Within the block, and in this context only, the layers output T(h) instead of h.

        Raises:
            SiteError: the model has no such layer.
        """
        hooks = {name: partial(_intervene, part) for name, part in self.interventions.items()}
        # R is a function of its parameters; without caching it is recomputed for each token.
        with parametrize.cached(), site_hooks(model.module, hooks):
            yield


def fit_reft(model: LanguageModel, prompts: Sequence[str], config: ReftConfig) -> Reft:
    """Train LoReFT on the next-token loss of `prompts`.

    Args:
        model: its weights are not changed.
        prompts: sentences of the target.
        config: the settings.

    Raises:
        ConfigError: pyreft is not installed, or the rank is above the model's width.
        PromptError: a sentence is empty or too long.
        SiteError: the model has no such layer.
        TrainingError: the loss is not finite.
    """
    names = layer_names(model)
    wrong = [layer for layer in config.layers if not 0 <= layer < len(names)]
    if wrong:
        raise SiteError(f"The model has no layer {wrong[0]}; choose from 0 to {len(names) - 1}.")
    spread = sorted({len(names) * quarter // 4 for quarter in (1, 2, 3)})
    chosen = [names[layer] for layer in config.layers or spread]
    inputs = model.prepare(prompts)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        reft = Reft({name: new_intervention(model, config.rank) for name in chosen})
    parameters = [p for part in reft.interventions.values() for p in part.parameters()]
    # R's parametrization stores signs (+-1) without a gradient, truncated to integers: any weight
    # decay would turn them, and so R, into zero.
    optimizer = torch.optim.AdamW(parameters, lr=config.rate, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, config.steps)
    generator = torch.Generator().manual_seed(config.seed)
    losses: list[float] = []
    for step in range(config.steps):
        order = torch.randperm(len(inputs), generator=generator)
        batch = inputs.rows(order[: config.batch_size].tolist())
        with reft.applied(model):
            loss: Tensor = model.module(
                input_ids=batch.ids,
                attention_mask=batch.mask.long(),
                labels=batch.ids.masked_fill(~batch.mask, -100),
                use_cache=False,
            ).loss
        if not loss.isfinite():
            raise TrainingError(
                f"The loss is {loss.item()} at step {step + 1}. Lower the rate (it is "
                f"{config.rate:g}; try {config.rate / 5:g})."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    for parameter in parameters:
        parameter.requires_grad_(False)
    return Reft(reft.interventions, tuple(losses))


def layer_names(model: LanguageModel) -> list[str]:
    """Module names of the model's layers, in order.

    Raises:
        SiteError: the model does not have its layers in one ModuleList.
    """
    count = model.module.config.num_hidden_layers
    for name, part in model.module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return [f"{name}.{i}" for i in range(count)]
    raise SiteError(f"{model.id} has no list of {count} layers; LoReFT needs one.")


def new_intervention(model: LanguageModel, rank: int) -> nn.Module:
    """A randomly initialised pyreft LoReFT of that rank, on the model's device in float32.

    Raises:
        ConfigError: pyreft is not installed, or the rank is above the model's width.
    """
    width = model.module.config.hidden_size
    if rank > width:
        raise ConfigError(f"rank is {rank}; {model.id} has {width} neurons a layer.")
    make: Callable[..., nn.Module] = _pyreft().LoreftIntervention
    return make(embed_dim=width, low_rank_dimension=rank, dtype=torch.float32).to(model.device)


def _intervene(intervention: nn.Module, z: Tensor) -> Tensor:
    # The interventions are float32, whatever the model's dtype.
    changed: Tensor = intervention(z.float())
    return changed.to(z.dtype)


def _pyreft() -> ModuleType:
    try:
        return import_module("pyreft")
    except ImportError as error:
        raise ConfigError(
            f"LoReFT needs pyreft, which cannot be imported ({error}); run "
            "pip install -r requirements-eval.txt and then "
            "pip install --no-deps -r requirements-rivals.txt."
        ) from error
