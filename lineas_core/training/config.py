"""Training settings. Each method reads those that apply to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lineas_core.errors import ConfigError
from lineas_core.steerable import Pooling, Steerable

# The paper's rate for language models.
PAPER_RATE = 0.1
# Method -> its settings, where a model ships others, which are for LinEAS. ml-act's are its
# authors' (`act/configs/intervention_params/*_ot.yaml`).
OF_METHOD: Mapping[str, Mapping[str, Any]] = {
    "lineas+": {"steps": 40, "rate": None, "optimizer": "adamw", "batch_size": 12},
    "lin-act": {"pooling": "mean"},
    "mean-act": {"pooling": "mean"},
    "gaussian-act": {"pooling": "mean"},
}


@dataclass(frozen=True)
class TrainConfig:
    """How a map is trained. The defaults are the paper's for language models, but for the rate.

    Args:
        steps: gradient steps, >= 1.
        rate: learning rate at the first step, > 0; it falls to 0 by a half cosine. None counts the
            loss and the steps in units of each neuron's spread (`units.py`), which serves every
            model: sgd then measures the rate and adds momentum, adamw takes a fixed one. The
            paper's is PAPER_RATE, on raw activations and without momentum.
        optimizer: "sgd" or "adamw" (whose weight decay pulls the map towards the identity).
        batch_size: source and target prompts per step, drawn without replacement.
        gamma: weight of the sparse penalty, >= 0; 0 leaves the map dense.
        l1: weight of the penalty on single neurons, >= 0.
        group: weight of the penalty on whole sites, >= 0.
        prox_step: "rate" thresholds by rate * gamma, the proximal gradient method; "paper" by
            gamma, as printed in Algorithm 1.
        sites: preset or regular expression; empty takes the model's default.
        pooling: of activations over tokens, or over height and width.
        holdout: share of the prompts kept from training, for the health report; 0 to 0.5.
        seed: for drawing minibatches and the held-out prompts.
        distance: for lineas+: weight of LinEAS's loss, >= 0; 0 trains the likelihood alone, in
            half the time.
        likelihood: for lineas+: weight of the mean next-token loss of the target, >= 0; 0 trains
            LinEAS's map. Not both may be 0.
        order: for lin-act, mean-act and gaussian-act: "sequential" fits each site with the sites
            before it already steered, for source and target, "sequential-source" with those of the
            source alone steered, "parallel" on the untouched model.
        bounds: for the same: which activations a map moves. "range" are those within the range of
            the pooled source at their site, neuron by neuron, "none" are all, and "authors" is
            range for lin-act and none for the other two.
        min_spread: for mean-act and gaussian-act: neurons whose standard deviation is not above it,
            on either side, stay as they are; >= 0, and 0 moves all.
        trim: for lin-act: share of the samples at either end that the fit leaves out; below 0.5.
        top_sites: for iti-c: number of sites to steer, best probe first; 0 steers all.
        alpha: for iti-c: length of the shift, in standard deviations along it; >= 0, and 0 searches
            for the one that brings the source closest to the target.

    Raises:
        ConfigError: a value is out of range; the message names it.
    """

    steps: int = 1000
    rate: float | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    batch_size: int = 32
    gamma: float = 0.0
    l1: float = 1.0
    group: float = 1.0
    prox_step: Literal["rate", "paper"] = "rate"
    sites: str = ""
    pooling: Pooling = "mean"
    holdout: float = 0.2
    seed: int = 0
    distance: float = 0.0
    likelihood: float = 1.0
    order: Literal["sequential", "sequential-source", "parallel"] = "sequential"
    bounds: Literal["authors", "range", "none"] = "authors"
    min_spread: float = 1e-4
    trim: float = 0.0
    top_sites: int = 0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        checks = {
            "steps": (self.steps >= 1, "1 or more"),
            "rate": (self.rate is None or 0 < self.rate < math.inf, "a number above 0"),
            "optimizer": (self.optimizer in ("sgd", "adamw"), "sgd or adamw"),
            "batch_size": (self.batch_size >= 2, "2 or more"),
            "gamma": (0 <= self.gamma < math.inf, "0 or more"),
            "l1": (0 <= self.l1 < math.inf, "0 or more"),
            "group": (0 <= self.group < math.inf, "0 or more"),
            "prox_step": (self.prox_step in ("rate", "paper"), "rate or paper"),
            "pooling": (self.pooling in get_args(Pooling), "mean, last or max"),
            "holdout": (0 <= self.holdout <= 0.5, "0 to 0.5"),
            "distance": (0 <= self.distance < math.inf, "0 or more"),
            "likelihood": (
                0 <= self.likelihood < math.inf and self.likelihood + self.distance > 0,
                "0 or more, and above 0 where distance is 0",
            ),
            "order": (
                self.order in ("sequential", "sequential-source", "parallel"),
                "sequential, sequential-source or parallel",
            ),
            "bounds": (self.bounds in ("authors", "range", "none"), "authors, range or none"),
            "min_spread": (0 <= self.min_spread < math.inf, "0 or more"),
            "trim": (0 <= self.trim < 0.5, "0 or more, and below 0.5"),
            "top_sites": (self.top_sites >= 0, "0 or more"),
            "alpha": (0 <= self.alpha < math.inf, "0 or more"),
        }
        for name, (fine, expected) in checks.items():
            if not fine:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {expected}.")

    @classmethod
    def for_model(cls, model: Steerable, method: str = "lineas", **changes: Any) -> TrainConfig:
        """The shipped settings for `model`, those of the method, and `changes`.

        Later ones hold where they differ.

        Raises:
            ConfigError: a setting does not exist, or a value is out of range.
        """
        settings = {**model.train_defaults, **OF_METHOD.get(method, {}), **changes}
        unknown = set(settings) - set(cls.__dataclass_fields__)
        if unknown:
            raise ConfigError(
                f"There is no setting {sorted(unknown)[0]!r}; there are "
                f"{', '.join(cls.__dataclass_fields__)}."
            )
        return cls(**settings)
