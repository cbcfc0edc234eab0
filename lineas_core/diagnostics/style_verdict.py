"""Add to a health report whether the style is visible in pictures of held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineas_core.diagnostics.report import HealthReport, Recommendation, Verdict
from lineas_core.diagnostics.strength import MIN_GAIN
from lineas_core.diagnostics.style_knowledge import StyleKnowledge, named

# Gain in CLIPScore on held-out prompts that is clearly visible.
CLEAR_GAIN = 0.05


def with_style(
    report: HealthReport,
    concept: str,
    recommended: Recommendation,
    knowledge: StyleKnowledge,
    styles: Sequence[str] = (),
) -> HealthReport:
    """The report with a verdict that also takes the pictures into account.

    A map is healthy only if distances and pictures agree. An overfitted map still counts as healthy
    if pictures of held-out prompts clearly gain, because the distance over a few prompts is noisy.
    Other verdicts are kept: they name the problem to fix first.

    Args:
        report: from `check_health`.
        concept: the style's name.
        recommended: measured on held-out prompts. Without gains in CLIPScore the report is
            returned unchanged.
        knowledge: whether the untouched model knows the style.
        styles: names of the styles that the model draws, for the advice.
    """
    if recommended.measure != "CLIPScore":
        return report
    gain = max(gain for _, gain in recommended.curve)
    report = replace(report, style_gain=gain)
    kept = recommended.strength is not None
    if report.verdict == "overfitted" and kept and gain >= CLEAR_GAIN:
        report = replace(report, verdict="healthy", advice=(
            f"Pictures of held-out prompts look more like “{concept}”, by {gain:.2f} in CLIPScore, "
            "though their activations stay farther from the target than those of the training "
            "prompts. Try it on a prompt of your own."
        ))  # fmt: skip
    if report.verdict != "healthy":
        return report
    verdict: Verdict
    if knowledge.answer == "already so":
        verdict, advice = (
            "already so",
            (f"The model draws “{concept}” without any map, so that there is nothing to add. "),
        )
    elif knowledge.answer == "unknown":
        verdict, advice = (
            "unknown style",
            (
                "The map does what it was trained to do, but even what the model draws for the "
                f"target prompts does not look like “{concept}”. "
            ),
        )
    elif gain < MIN_GAIN:
        return replace(report, verdict="no effect", advice=(
            "The activations come closer to the target, and no strength makes the pictures look "
            f"more like “{concept}”. Train for more Steps, raise the Learning rate, or put prompts "
            "into the table that show it more clearly."
        ))  # fmt: skip
    elif recommended.strength is None:
        return replace(report, verdict="collapsed", advice=(
            f"The pictures look like “{concept}” only where they lose what they show. Train with "
            "fewer Steps or a lower Learning rate."
        ))  # fmt: skip
    else:
        return report
    known = f"It knows {named(styles)}." if styles else "Choose another style, or another model."
    return replace(report, verdict=verdict, advice=advice + known)
