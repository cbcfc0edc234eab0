"""Target sentences in context: what LinEAS+ makes likely (`likelihood.py`)."""

from __future__ import annotations

from typing import Any

import torch

from lineas_core.prompts.prompt_set import Sides
from lineas_core.steerable import Continuations, Steerable

# Name of the method that trains their likelihood.
METHOD = "lineas+"
# Contexts that each target sentence follows in turn, so that none goes with one sentence only.
CONTEXTS = 4


def in_context(
    model: Steerable, prompts: Sides[Any], seed: int, contexts: int = CONTEXTS
) -> Continuations:
    """Each target sentence after each of several source sentences, drawn at random.

    Args:
        model: a language model.
        prompts: source and target, both with at least one line.
        seed: of the draw.
        contexts: how many each target sentence follows, in rows of their own.

    Raises:
        ConfigError: the model writes no text.
        PromptError: source and target sentence are together longer than the model reads.
    """
    generator = torch.Generator().manual_seed(seed)
    before: list[str] = []
    for _ in range(contexts):
        order = torch.randperm(len(prompts.source), generator=generator).tolist()
        before += [prompts.source[order[i % len(order)]] for i in range(len(prompts.target))]
    found: Continuations = model.continuations(before, contexts * prompts.target)
    return found
