"""Add to a health report how often a steered model copies the sentences of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from lineas_core.diagnostics.report import HealthReport
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.metrics.copies import WORDS, has_copies
from lineas_core.models.language.model import LanguageModel
from lineas_core.prompts.prompt_set import Sides

# Neutral beginnings of texts, which are completed in turn.
OPENINGS = (
    "Once upon a time",
    "My friends and I",
    "People often talk about",
    "The newspaper said that",
)
COMPLETIONS, TOKENS = 32, 32
# Share of completions with a copy from which on a map counts as overfitted.
MANY_COPIES = 0.1


def with_copies(
    report: HealthReport,
    model: object,
    smap: SteeringMap,
    training: Sides[Any],
    strength: float,
    *,
    seed: int = 0,
) -> HealthReport:
    """The report with the share of completions that copy five words in a row of the training.

    A healthy verdict becomes "overfitted" if that is more than a tenth. Other verdicts are kept:
    they name the problem to fix first.

    Args:
        report: from `check_health`.
        model: if it is not a language model, the report is returned unchanged.
        smap: the map.
        training: the prompts it was trained on.
        strength: the recommended one.
        seed: of the first completion; each next one uses the next seed.
    """
    if not isinstance(model, LanguageModel):
        return report
    prompts = [OPENINGS[i % len(OPENINGS)] for i in range(COMPLETIONS)]
    texts = model.generate(
        prompts,
        [(smap, strength)],
        seed=range(seed, seed + COMPLETIONS),
        max_new_tokens=TOKENS,
    )
    copies = share_of_copies(texts, training)
    report = replace(report, copies=copies)
    if report.verdict != "healthy" or copies <= MANY_COPIES:
        return report
    return replace(report, verdict="overfitted", advice=(
        f"{copies:.0%} of completions repeat {WORDS} words in a row of the prompts. Put "
        "more and more diverse prompts into the table, train with fewer Steps, or use a smaller "
        "strength."
    ))  # fmt: skip


def share_of_copies(texts: Sequence[str], training: Sides[Any]) -> float:
    """Share of the texts that repeat `WORDS` words in a row of a training prompt, source or target.

    Args:
        texts: completions, at least one.
        training: the prompts.
    """
    return fmean(has_copies(texts, [*training.source, *training.target]))
