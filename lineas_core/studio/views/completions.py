"""Render completions and their readouts as HTML: pure functions that escape all text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from lineas_core.metrics.concepts import concept_words
from lineas_core.models.shared.batches import TextGrid
from lineas_core.prompts.filters import any_form
from lineas_core.studio.answers.conversation import Turn
from lineas_core.studio.answers.own_concepts import OwnConcept
from lineas_core.studio.answers.readouts import OwnPresence, Readout
from lineas_core.studio.jobs.device.preparation import Waiting

# The model's judgement is labelled weak if `OwnPresence.right` is below this.
SURE = 0.9


def pair(
    prompt: str, titles: Sequence[str], texts: Sequence[str], concepts: Sequence[str], **state: Any
) -> str:
    """Render completions of one prompt with one seed, side by side.

    Args:
        prompt: the prompt they continue.
        titles: titles of the cards.
        texts: the completions, possibly still partial.
        concepts: concepts whose words are highlighted.
        state: own (concepts without a word list); readouts (one per text) or writing (generation
            is still in progress).
    """
    readouts: Sequence[Readout] = state.get("readouts", ())
    own: Sequence[OwnConcept] = state.get("own", ())
    cards = []
    for number, (title, text) in enumerate(zip(titles, texts, strict=True)):
        marked = mark(text, concepts, own)
        caret = '<span class="ls-caret"></span>' if state.get("writing") else ""
        measured = readout(readouts[number]) if readouts else '<p class="ls-readout">&nbsp;</p>'
        cards.append(
            f'<article class="ls-card" data-side="{"steered" if number else "unsteered"}">'
            f"<h3>{escape(title)}</h3><p><b>{escape(prompt)}</b>"
            f'<span class="ls-text">{marked}</span>{caret}</p>{measured}</article>'
        )
    return f'<div class="ls-cards" aria-live="polite">{"".join(cards)}</div>'


def waiting(state: Waiting) -> str:
    """Render what the first answer is waiting for, with a progress bar."""
    percent = f"{state.share:.0%}"
    return (
        f'<div class="ls-progress" role="status"><div class="ls-track"><div class="ls-fill" '
        f'style="width: {percent}"></div></div>{escape(state.words)} · {state.seconds:.0f} s. '
        "The text follows by itself.</div>"
    )


def chat(turns: Sequence[Turn], concepts: Sequence[str] = (), *, writing: bool = False) -> str:
    """Render a conversation: each question with its unsteered and steered answers below.

    Args:
        turns: the turns, oldest first.
        concepts: concepts whose words are highlighted.
        writing: whether the last turn is still being generated.
    """
    if not turns:
        return (
            '<p class="ls-hint">Ask something: the untouched model answers at the left, the '
            "steered one at the right. Move a slider between two questions, and the next answer "
            "takes the new strength.</p>"
        )
    shown = []
    for number, turn in enumerate(turns, start=1):
        caret = '<span class="ls-caret"></span>' if writing and number == len(turns) else ""
        cards = "".join(
            f'<article class="ls-card" data-side="{side}"><h3>{escape(title)}</h3>'
            f'<p><span class="ls-text">{mark(text, concepts)}</span>{caret}</p></article>'
            for side, title, text in (
                ("unsteered", "Unsteered", turn.untouched),
                ("steered", turn.maps or "No map is on", turn.steered),
            )
        )
        shown.append(
            f'<section class="ls-turn" aria-label="Question {number}"><p class="ls-question">'
            f'{escape(turn.question)}</p><div class="ls-cards">{cards}</div></section>'
        )
    return f'<div class="ls-chat" aria-live="polite">{"".join(shown)}</div>'


def readout(figures: Readout) -> str:
    """Render concept presence, toxicity and perplexity in one line."""
    toxic = "not scored" if figures.toxicity is None else f"{figures.toxicity:.2f}"
    surprise = "not scored" if figures.perplexity is None else f"{figures.perplexity:.1f}"
    items = [
        f'<span title="completions that hold a word of it">{escape(concept)} '
        f"<b>{found} of {count}</b></span>"
        for concept, found, count in figures.presence
    ]
    for each in figures.own:
        items += _own(each)
    items += [
        f'<span title="{escape(figures.scorer, quote=True)}">toxicity <b>{toxic}</b></span>',
        f'<span title="under the unsteered model">perplexity <b>{surprise}</b></span>',
    ]
    return f'<p class="ls-readout">{"".join(items)}</p>'


def _own(found: OwnPresence) -> list[str]:
    by_words = (
        '<span title="completions that hold one of the words that count">'
        f"{escape(found.concept)} by words <b>{found.worded} of {found.texts}</b></span>"
    )
    if found.judged is None or found.right is None:
        return [by_words, "<span>by the model <b>not judged</b></span>"]
    weak = ", weak" if found.right < SURE else ""
    return [
        by_words,
        '<span title="completions with words that the unsteered model expects among the targets '
        f"rather than among the sources; of texts made of these it tells {found.right:.0%} rightly"
        f'">by the model{weak} '
        f"<b>{found.judged} of {found.texts}</b></span>",
    ]


def text_sweep(
    grid: TextGrid,
    readouts: Sequence[Readout],
    concepts: Sequence[str],
    seed: int,
    own: Sequence[OwnConcept] = (),
) -> str:
    """Render a table with one row per seed, from `seed` on, and one column per strength.

    The last row contains the readouts.
    """
    head = "".join(f"<th scope='col'>{strength:g}</th>" for strength in grid.strengths)
    rows = []
    for number, (prompt, texts) in enumerate(zip(grid.prompts, grid.texts, strict=True)):
        cells = "".join(
            f'<td><b>{escape(prompt)}</b><span class="ls-text">'
            f"{mark(text, concepts, own)}</span></td>"
            for text in texts
        )
        rows.append(f"<tr><th scope='row'>seed {seed + number}</th>{cells}</tr>")
    measured = "".join(f"<td>{readout(figures)}</td>" for figures in readouts)
    scorers = ", ".join(dict.fromkeys(figures.scorer for figures in readouts))
    return (
        '<div class="ls-grid ls-texts" tabindex="0" role="region" aria-label="Completions by '
        f'strength"><table><thead><tr><th scope="col">strength</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}<tr><th scope='row'>measured</th>{measured}</tr></tbody></table>"
        f'</div><p class="ls-hint">Toxicity: {escape(scorers)}. Perplexity: under the unsteered '
        "model.</p>"
    )


def mark(text: str, concepts: Sequence[str], own: Sequence[OwnConcept] = ()) -> str:
    """Escape the text and highlight the concepts' words."""
    words = [
        rf"\b{re.escape(word)}\b"
        for concept in concepts
        for word in concept_words().get(concept, ())
    ]
    words += [any_form(word).pattern for each in own for word in each.words]
    if not words:
        return escape(text)
    pieces = re.split(f"({'|'.join(words)})", text, flags=re.IGNORECASE)
    return "".join(
        f"<mark>{escape(piece)}</mark>" if i % 2 else escape(piece)
        for i, piece in enumerate(pieces)
    )
