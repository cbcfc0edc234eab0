"""Finds the words that a language model uses for a topic, from its next-token predictions."""

from __future__ import annotations

import re

from lineas_core.metrics.own_words import everyday_share
from lineas_core.models.language.continuation import Continuer, Stop, Written
from lineas_core.prompts.filters import STOP_WORDS, any_form, stem_of

# Openings that are followed by a noun.
OPENINGS = (" The", " A", " Her", " When the", " We saw the", " At the", " She took the")
FIRST_TOKENS = 80
WORD_TOKENS = 4
MAX_WORDS = 24
# How much likelier a whole word must be after sentences on the topic than after everyday ones, in
# nats.
LEANS = 1.5
# Maximum share of everyday texts that contain a word of a topic.
EVERYDAY = 0.02
WORD = re.compile(r"The ([a-z]{4,14})(?=[\s.,])")


def vocabulary(here: Continuer, there: Continuer, concept: str, stop: Stop) -> list[str]:
    """Words of a topic, likeliest first: one per stem, without those of the topic's name.

    First tokens are ranked by their share of the KL divergence between the next-token
    probabilities on the topic (p) and in everyday sentences (q), sum over openings of p log(p / q).
    The model completes each token to a word. A word is kept if p / q over all its tokens is above
    e^1.5 and at most 2% of everyday texts contain it.

    Args:
        here: continues sentences on the topic.
        there: continues everyday sentences.
        concept: name of the topic.
        stop: polled between the steps; if true, the result is empty.
    """
    near, far = (c.expected(OPENINGS) for c in (here, there))
    tokens = (near.exp() * (near - far)).sum(0).topk(min(FIRST_TOKENS, near.shape[1])).indices
    starts = [f" The{here.decoded(int(token))}" for token in tokens]
    lines = here.write(starts, range(len(starts)), stop, whole_line=True, most_tokens=WORD_TOKENS)
    named = [any_form(word) for word in re.findall(r"[^\W\d_]{3,}", concept)]
    found: dict[str, str] = {}
    for line in lines:
        match = WORD.match(line.text)
        word = match[1] if match else ""
        if not word or word in STOP_WORDS or any(form.search(word) for form in named):
            continue
        if everyday_share(word) <= EVERYDAY:
            found.setdefault(stem_of(word), word)
    if not found or stop():
        return []
    words = list(found.values())
    rows = [Written(word, True, (here.ids(" The"), here.ids(f" {word}")), 0.0) for word in words]
    gains = [
        (other - own) * len(row.ids[1])
        for row, own, other in zip(rows, here.losses(rows), there.losses(rows), strict=True)
    ]
    return [w for w, gain in zip(words, gains, strict=True) if gain > LEANS][:MAX_WORDS]
