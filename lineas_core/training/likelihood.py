"""LinEAS+: LinEAS, with the likelihood of target sentences in its loss.

    min over (w, b)   distance   * sum over sites of the loss of LinEAS (`trainer.py`)
                      likelihood * mean over tokens t of  -log p(t | context, tokens before t)
                      + R(w, b)

The tokens are those of the target sentences, each after a source sentence as its context, and p is
the model steered at a strength of 5/3. LinEAS brings averages over a sentence to the target, and
the likelihood says which of the maps that do so write it. It is that of supervised fine-tuning, as
in ReFT (Wu et al., NeurIPS 2024), with the parameters of LinEAS. With a likelihood of 0 the map is
LinEAS's, bit for bit; with a distance of 0 the source is nothing but contexts.

The map that makes the target most likely follows its sentences too closely, and repeats them. Part
of the way to it from the untouched model, most of the concept is there and most of the fluency
still is, as between the weights of a model before and after fine-tuning (WiSE-FT, Wortsman et al.,
CVPR 2022). Strength 1 is that part of the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lineas_core.hooks import site_hooks
from lineas_core.maps.steering_map import BatchAffine, SteeringMap
from lineas_core.recompute import in_parts, recomputing
from lineas_core.steerable import Continuations, Samples, Steerable
from lineas_core.steering import AtSite
from lineas_core.training.config import TrainConfig
from lineas_core.training.contexts import METHOD, in_context
from lineas_core.training.events import LIKELIHOOD
from lineas_core.training.memory import find_fit
from lineas_core.training.rows import Rows, taken
from lineas_core.training.state import TrainState
from lineas_core.training.trainer import Trainer

# Strength at which the target is made likely; docs/methods.md has the figures it was chosen by.
STRENGTH = 5 / 3


def continuation_losses(
    model: Steerable,
    inputs: Continuations,
    sites: Sequence[str],
    *,
    maps: Mapping[str, BatchAffine],
    rows_at_once: int = 0,
    layers: Sequence[str] = (),
) -> Float[Tensor, " n"]:
    """Negative log-likelihood of each text in nats, summed over its tokens, after `maps`.

    Differentiable in the maps, which act at every token.

    Args:
        model: gradients flow through it; frozen weights get none.
        inputs: from `model.continuations`.
        sites: where the maps are.
        maps: site -> gain and shift.
        rows_at_once, layers: as for `activations.pooled_forward`.
    """
    hooks = {name: AtSite(name, maps[name], last=True) for name in sites}

    def run(rows: Continuations) -> Tensor:
        with site_hooks(model.module, hooks), recomputing(model.module, layers, hooks):
            return rows.losses()

    return torch.cat(in_parts(run, inputs, rows_at_once))


class LikelihoodTrainer(Trainer):
    """One LinEAS+ run, step by step; see `Trainer`.

    Raises:
        ConfigError: the model writes no text; or as for `Trainer`.
    """

    method: ClassVar[str] = METHOD

    def __init__(
        self,
        model: Steerable,
        prompts: Samples,
        config: TrainConfig | None = None,
        state: TrainState | None = None,
        *,
        start: SteeringMap | None = None,
        support: SteeringMap | None = None,
    ) -> None:
        config = config or TrainConfig.for_model(model, self.method)
        training, _ = prompts.split(config.holdout, config.seed)
        self._texts = in_context(model, training, config.seed)
        self._counts = self._texts.counts
        self.reach = STRENGTH if config.likelihood else 1.0
        super().__init__(model, prompts, config, state, start=start, support=support)
        self._texts_fit = find_fit(
            model,
            self._texts,
            self.sites,
            self.params,
            continuation_losses,
            batch_size=config.batch_size,
        )

    @property
    def counts(self) -> Sequence[int]:
        """Number of source and of target prompts, then of texts; of what has a weight."""
        of_sides = super().counts if self.config.distance else ()
        return *of_sides, *((len(self._texts),) if self.config.likelihood else ())

    @property
    def terms(self) -> Sequence[str]:
        """The sites, then the likelihood, of what has a weight."""
        of_sites = super().terms if self.config.distance else ()
        return *of_sites, *((LIKELIHOOD,) if self.config.likelihood else ())

    def minibatch_losses(self, drawn: Sequence[Rows]) -> Tensor:
        """The losses of LinEAS and the mean next-token loss of the texts, times their weights."""
        found = []
        if self.config.distance:
            found.append(self.config.distance * super().minibatch_losses(drawn[:2]))
        if self.config.likelihood:
            found.append(self.config.likelihood * self._next_token_loss(drawn[-1])[None])
        return torch.cat(found)

    def _next_token_loss(self, rows: Rows) -> Float[Tensor, ""]:
        losses = continuation_losses(
            self.model,
            self._texts.rows(self.ranks.share(rows)),
            self.sites,
            maps={
                name: BatchAffine(self.reach * affine.gain, self.reach * affine.shift)
                for name, affine in self.params.items()
            },
            rows_at_once=self._texts_fit.rows,
            layers=self._texts_fit.layers,
        )
        summed = self.ranks.gathered(losses[:, None], len(rows)).sum()
        return summed / taken(self._counts, rows).sum()
