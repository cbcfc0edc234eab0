"""Derives the words of a concept from a prompt set, where there is no published list."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

from lineas_core.prompts.filters import STOP_WORDS, any_form, content_words, stem_of
from lineas_core.system.paths import packaged

# Weight of the prior, in texts.
PRIOR = 16.0
# Odds ratio above which a word counts as the target's own: in a set of 32 + 32, two sentences are
# enough for a word in 1.6% of everyday texts, and three for one in 2.5%.
OWN = 8.0
# Odds ratio above which a single word indicates the concept; two sentences are enough at 0.4%.
# Texts about volcanoes say "earth" now and then, but so do others.
TELLING = 32.0
# Most words that occur in only one sentence are there by chance: "bench", "borrowed".
MIN_TEXTS = 2
MAX_WORDS = 60


@cache
def _background() -> tuple[int, dict[str, int]]:
    """Number of the embedded model's unsteered completions, and stem -> how many contain it."""
    text = packaged("metrics/background.json").read_text(encoding="utf-8")
    raw = json.loads(text)
    return raw["texts"], raw["stems"]


def own_words(
    source: Sequence[str], target: Sequence[str], concept: str = "", ratio: float = OWN
) -> tuple[str, ...]:
    """Words that are likelier in the target than in the source, likeliest first; one per stem.

    If k of n texts contain a word, its odds are (k + a) / (n + A - k - a). The prior adds A = 16
    texts, a of which contain the word: the same share as of everyday texts (after Monroe et al.,
    2008, Eq. 15). A word is the target's own if its log-odds there exceed those in the source by
    log(ratio) and at least two target texts contain it. Function words are never included; the
    concept's own words always come first.

    Args:
        source: texts without the concept.
        target: texts with it.
        concept: its name, a few words.
        ratio: minimum ratio of the odds in the target to those in the source.

    >>> own_words(["He sat on the bench."], ["Lava fills the crater."] * 3, "volcanoes")
    ('volcanoes', 'crater', 'lava', 'fills')
    """
    named = [w for w in re.findall(r"[^\W\d_]{2,}", concept.lower()) if w not in STOP_WORDS]
    forms = [any_form(word) for word in named]
    sides = [_holding(lines) for lines in (target, source)]
    counts = (len(target), len(source))
    written: Counter[str] = Counter(w for line in target for w in content_words(line))
    best: dict[str, str] = {}
    for word, _ in sorted(written.items(), key=lambda item: (-item[1], item[0])):
        best.setdefault(stem_of(word), word)
    total, everyday = _background()
    found: list[tuple[float, str]] = []
    for stem, word in best.items():
        if sides[0][stem] < MIN_TEXTS:
            continue
        if any(form.fullmatch(word) for form in forms):
            continue
        prior = PRIOR * (everyday.get(stem, 0) + 0.5) / (total + 1)
        odds = [
            math.log((held[stem] + prior) / (count + PRIOR - held[stem] - prior))
            for held, count in zip(sides, counts, strict=True)
        ]
        if odds[0] - odds[1] > math.log(ratio):
            found.append((odds[0] - odds[1], word))
    found.sort(key=lambda item: (-item[0], item[1]))
    return (*dict.fromkeys(named), *(word for _, word in found[:MAX_WORDS]))


def everyday_share(word: str) -> float:
    """Share of completions of neutral openings that contain a word with any ending, 0 to 1."""
    total, everyday = _background()
    return everyday.get(stem_of(word), 0) / total


def words_presence(texts: Sequence[str], words: Iterable[str]) -> list[bool]:
    """For each text, whether it contains one of the words, in any case and with any ending.

    >>> words_presence(["Two craters.", "A creature."], ["crater"])
    [True, False]
    """
    forms = [any_form(word) for word in words]
    return [any(form.search(text) for form in forms) for text in texts]


def _holding(lines: Sequence[str]) -> Counter[str]:
    return Counter(stem for line in lines for stem in {stem_of(w) for w in content_words(line)})
