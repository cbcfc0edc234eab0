"""Perplexity of completions under the unsteered model: how far a text is from its language."""

from __future__ import annotations

from collections.abc import Sequence

from lineas_core.errors import ConfigError
from lineas_core.models.language.model import LanguageModel, perplexity_of
from lineas_core.system.words import counted


def perplexity(model: LanguageModel, prompts: Sequence[str], completions: Sequence[str]) -> float:
    """exp of the mean negative log-likelihood of the completions' tokens, given their prompts.

    The mean is over all tokens of all completions, so long texts count for more. The model is
    run as it is steered now: call it outside of `steer`.

    Args:
        model: the judge.
        prompts: what each completion follows; read, not scored.
        completions: as many; empty ones have no token and count for nothing.

    Returns:
        The perplexity, >= 1; NaN where no completion has a token.

    Raises:
        ConfigError: the numbers of prompts and completions differ.
    """
    if len(prompts) != len(completions):
        raise ConfigError(
            f"{counted(len(prompts), 'prompt')} for "
            f"{counted(len(completions), 'completion')}; give pairs."
        )
    return perplexity_of(model.token_losses(completions, prompts))
