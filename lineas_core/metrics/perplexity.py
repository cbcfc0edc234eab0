"""Perplexity of completions under the unsteered model: how unlikely it finds a text."""

from __future__ import annotations

from collections.abc import Sequence

from lineas_core.errors import ConfigError
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.language.scoring import perplexity_of
from lineas_core.system.words import counted


def perplexity(model: LanguageModel, prompts: Sequence[str], completions: Sequence[str]) -> float:
    """exp of the mean negative log-likelihood of the completions' tokens, given their prompts.

    The mean is over all tokens of all completions, so long texts count for more. The model runs
    with any maps that are currently on it, so call this outside of `steer`.

    Args:
        model: the model that scores.
        prompts: the context of each completion; not scored.
        completions: one per prompt; empty ones have no tokens and are ignored.

    Returns:
        The perplexity, >= 1; NaN if no completion has a token.

    Raises:
        ConfigError: the numbers of prompts and completions differ.
    """
    if len(prompts) != len(completions):
        raise ConfigError(
            f"{counted(len(prompts), 'prompt')} for "
            f"{counted(len(completions), 'completion')}; give pairs."
        )
    return perplexity_of(model.token_losses(completions, prompts))
