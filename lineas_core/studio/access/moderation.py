"""Moderation of a public Space: refuse harmful training and steering, and check images.

A prompt set leans towards harm if its target is clearly ruder than its source, or contains lines
that a one-way set steers away from. Lines are read as a reader does (`disguises.py`), and words
that only say who or what is in them do not count (`harmless.toml`). Such a set cannot be trained
on, and its maps cannot be applied. A set that leans the other way is one-way: its maps can be
applied, but neither inverted nor at a negative strength. SECURITY.md says what this does not catch.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Literal

from lineas_core.errors import LineasError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.metrics.toxicity import PROFANITY, ProfanityScorer, load_toxicity_scorer
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.image.safety import SafetyChecker
from lineas_core.models.load import Model, load_model
from lineas_core.models.shared.catalog import catalog
from lineas_core.prompts.prompt_set import PromptSet
from lineas_core.studio.access.disguises import spaced_out, undisguised
from lineas_core.system.lru import Recent
from lineas_core.system.paths import packaged

# Shipped sets whose source no map should steer towards.
ONE_WAY = ("toxicity",)
# Threshold on the difference of the two sides' mean rudeness.
MARGIN = 0.2
# Probability below which a line is not rude at all: one sentence in ten about everyday things has
# 0.3 to 0.5, and many of them are no more than none.
RUDE = 0.5
# Probability of a word, alone, that makes a line rude whatever else is in it; and the letters that
# it has at least where nothing shows where it begins and ends.
INSULT, INSULT_LETTERS = 0.95, 4
WORDS = tomllib.loads((packaged("studio/access") / "harmless.toml").read_text("utf-8"))
ADDRESSED = re.compile(r"\b(?:you|your|yours|yourself|u|ur)\b")

Lean = Literal["harmful", "none", "one-way"]

# Cached, since every slider move checks its maps; keyed by hash, since prompts may be long.
_leans: Recent[Lean] = Recent(256)


class ContentError(LineasError, ValueError):
    """A public Space refuses this because of the content it would produce."""


def check_target(prompts: PromptSet) -> None:
    """Refuse to train on a set that leans towards harm.

    Raises:
        ContentError: the set leans towards harm.
    """
    if lean_of(prompts) == "harmful":
        raise ContentError(
            f"The target of {prompts.title or prompts.name!r} is more toxic than its source, and "
            "this public Space teaches no model that. Swap source and target, or run the Studio "
            "on a machine of your own."
        )


def check_steering(
    smap: SteeringMap, prompts: PromptSet | None, strength: float, *, inverse: bool
) -> None:
    """Refuse to apply a map that would steer towards harm.

    Args:
        smap: the map as it is stored.
        prompts: the prompts that it was learned from, if they are known.
        strength: the strength that it is applied at.
        inverse: whether its inverse is applied instead.

    Raises:
        ContentError: its prompts lean towards harm; or they are one-way, and the map is inverted
            or at a negative strength.
    """
    lean = _lean_of_hash(smap.info.prompt_hash)
    if lean == "none" and prompts is not None:
        lean = lean_of(prompts)
    name = repr(smap.info.name or "map")
    if lean == "harmful":
        raise ContentError(
            f"The map {name} was learned from prompts whose target is more toxic than their "
            "source, and this public Space puts no such map on. Take it off the rack."
        )
    if lean == "one-way" and (inverse or strength < 0):
        raise ContentError(
            f"The map {name} cannot be reversed on this public Space: strength is {strength:g}"
            f"{', inverted' if inverse else ''}. Choose 0 or more, not inverted."
        )


def lean_of(prompts: PromptSet) -> Lean:
    """Classify a prompt set as the module's docstring defines."""
    key = prompts.hash()
    lean = _leans.get(key)
    if lean is None:
        lean = _judged(prompts.source, prompts.target)
        _leans.put(key, lean)
    return lean


def load_for_visitors(name: str, home: Path, *, safety_checker: bool, lent: bool = False) -> Model:
    """Load a model, with a safety checker if it is an image model that is not embedded.

    Args:
        name: the name of the model.
        home: where converted models are kept.
        safety_checker: whether images are checked.
        lent: whether it runs on a GPU that is lent to other processes: it is loaded into this one's
            memory, in the dtype for a GPU.

    Raises:
        ModelError: the model, or the safety checker that its images must pass, cannot be loaded.
    """
    entry = catalog().get(name)
    device, dtype = ("cpu", entry.dtype if entry else "auto") if lent else ("auto", "auto")
    model = load_model(name, device=device, dtype=dtype, home=home)
    # Embedded models draw only emoji, so there is nothing for the checker to detect.
    embedded = entry is not None and bool(entry.folder)
    if safety_checker and isinstance(model, DiffusionModel) and not embedded:
        model.checker = SafetyChecker.load(model.device)
    return model


def rudeness(lines: Sequence[str]) -> list[float]:
    """How rude each line is, 0 to 1: 0 below `RUDE`, else the probability that it is."""
    # Always the shipped scorer, which the thresholds were chosen for.
    scorer = load_toxicity_scorer(PROFANITY)
    meant = [_without_harmless(undisguised(line)) for line in lines]
    return [
        1.0 if _insults(words, spaced_out(line)) else p if p >= RUDE else 0.0
        for line, words, p in zip(lines, meant, scorer.score(meant), strict=True)
    ]


def _judged(source: Sequence[str], target: Sequence[str]) -> Lean:
    harmful = _harmful_lines()
    before, after = fmean(rudeness(source)), fmean(rudeness(target))
    if after - before > MARGIN or not harmful.isdisjoint(map(_bare, target)):
        return "harmful"
    if before - after > MARGIN or not harmful.isdisjoint(map(_bare, source)):
        return "one-way"
    return "none"


def _without_harmless(line: str) -> str:
    """A line in small letters without the words that do not count."""
    unmeant = _harmless("people", "body")
    if not ADDRESSED.search(line):
        unmeant |= _harmless("animals", "events")
    return " ".join(word for word in re.findall(r"[^\W_]+", line) if word not in unmeant)


@cache
def _harmless(*kinds: str) -> frozenset[str]:
    return frozenset(word for kind in kinds for word in WORDS[kind].split())


def _insults(words: str, runs: Sequence[str]) -> bool:
    """Whether an insult is among words, or in letters that do not show where words end."""
    insults = _insult_words()
    within = [insult for insult in insults if len(insult) >= INSULT_LETTERS]
    return not insults.isdisjoint(words.split()) or any(
        insult in run for insult in within for run in runs
    )


@cache
def _insult_words() -> frozenset[str]:
    scorer = load_toxicity_scorer(PROFANITY)
    assert isinstance(scorer, ProfanityScorer)
    found = zip(scorer.words, scorer.score(scorer.words), strict=True)
    harmless = _harmless("people", "body", "events", "animals")
    return frozenset(word for word, p in found if p > INSULT and word not in harmless)


def _bare(line: str) -> str:
    """A line as two are compared: its letters and digits, undisguised."""
    return "".join(filter(str.isalnum, undisguised(line)))


@cache
def _harmful_lines() -> frozenset[str]:
    return frozenset(_bare(line) for name in ONE_WAY for line in PromptSet.load(name).source)


def _lean_of_hash(prompt_hash: str) -> Lean:
    return _known_hashes().get(prompt_hash, "none")


@cache
def _known_hashes() -> dict[str, Lean]:
    found: dict[str, Lean] = {}
    for name in ONE_WAY:
        prompts = PromptSet.load(name)
        swapped = replace(prompts, source=prompts.target, target=prompts.source)
        found |= {prompts.hash(): "one-way", swapped.hash(): "harmful"}
    return found
