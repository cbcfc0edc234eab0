"""The prompts that a model has written so far, and which of them are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lineas_core.metrics.concepts import concept_words
from lineas_core.models.continuer import Stop
from lineas_core.prompt_flaws import content_words, stem_of
from lineas_core.prompt_marks import first_like
from lineas_core.prompts import PromptSet, Side

BATCH = 32
SMALLEST_BATCH = 8
TRIES_A_PROMPT = 16
# Of what is wanted, how much more is written to choose from.
SPARE = 0.5
# First words -> how many prompts of a side may share them.
SAME_BEGINNING = {2: 2, 3: 1}
SAME_WORD = 3

Clock = Callable[[], float]


@dataclass(frozen=True)
class Draft:
    """What has been written so far.

    Attributes:
        concept: what the target is about, or its style.
        source: the likeliest of the accepted source prompts, in the order they were written.
        target: likewise.
        refused: reason -> how many were refused for it.
        tried: how many were written.
        seconds: since the start.
        done: whether this is the last one.
        message: once done, what to know: what is short and why, or what cannot be had.
    """

    concept: str
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    tried: int = 0
    seconds: float = 0.0
    done: bool = False
    message: str = ""

    def to_prompt_set(
        self, name: str, title: str, modality: Literal["text", "image"] = "text"
    ) -> PromptSet:
        """The accepted prompts as a set.

        Raises:
            PromptError: there are too few.
        """
        listed = {word.casefold(): word for word in concept_words()}
        concept = self.concept
        if modality == "text":
            concept = listed.get(concept.casefold(), concept)
        return PromptSet(
            name=name,
            title=title,
            modality=modality,
            source=list(self.source),
            target=list(self.target),
            concept=concept,
        )


class Sheet:
    """Counts the prompts that were written and keeps the good ones.

    Args:
        concept: what they are about.
        count: prompts a side that are wanted.
        seconds: after which it is late.
        should_stop: whether somebody asked for the end.
        clock: seconds, from any start.
        note: what the last draft says in any case.
    """

    def __init__(
        self,
        concept: str,
        count: int,
        seconds: float,
        should_stop: Stop | None,
        clock: Clock,
        note: str = "",
    ) -> None:
        self.concept, self._count, self._seconds = concept, count, seconds
        self._asked, self._clock, self._begun = should_stop, clock, clock()
        self._note = note
        self._texts: dict[Side, list[str]] = {"source": [], "target": []}
        self._losses: dict[Side, list[float]] = {"source": [], "target": []}
        self._seen: Counter[tuple[str, ...]] = Counter()
        self._refused: Counter[str] = Counter()
        self._tried = 0
        self._room = count + int(SPARE * count)

    def stop(self) -> bool:
        """Whether somebody asked for the end, or the time is up."""
        return self._stopped() or self._late()

    def ended(self, sides: Sequence[Side]) -> bool:
        """Whether there is nothing more to write."""
        full = all(len(self._texts[side]) >= self._room for side in sides)
        return full or self._tired() or self.stop()

    def shortest(self) -> Side:
        """The side that has the fewest prompts."""
        return "source" if len(self._texts["source"]) < len(self._texts["target"]) else "target"

    def batch(self, side: Side) -> int:
        """How many to write at once: more than what is missing, as about a quarter are refused."""
        missing = self._room - len(self._texts[side])
        return max(SMALLEST_BATCH, min(BATCH, missing * 3 // 2))

    def take(self, side: Side, text: str, flaw: str, loss: float, plain: bool = False) -> bool:
        """Accept a text that has no flaw and is like no other; say whether it was.

        Args:
            side: source or target.
            text: what was written.
            flaw: what is wrong with it already.
            loss: the smaller, the sooner it is kept.
            plain: refuse what others on this side are about.
        """
        if len(self._texts[side]) >= self._room:
            return False
        self._tried += 1
        words = text.lower().split()
        beginnings = {(side, *words[:n]): most for n, most in SAME_BEGINNING.items()}
        if not flaw and any(self._seen[key] >= most for key, most in beginnings.items()):
            flaw = "begins alike"
        # Sentences about a concept share its words; everyday ones should be about many things.
        kept = {(side, stem_of(word)) for word in content_words(text)} if plain else set()
        if not flaw and any(self._seen[key] >= SAME_WORD for key in kept):
            flaw = "same word again"
        if not flaw and first_like(text, self._texts[side]) is not None:
            flaw = "near duplicate"
        if flaw:
            self._refused[flaw] += 1
            return False
        self._seen.update([*beginnings, *kept])
        self.add(side, text, loss)
        return True

    def add(self, side: Side, text: str, loss: float) -> None:
        """Accept a text."""
        self._texts[side].append(text)
        self._losses[side].append(loss)

    def draft(self, done: bool = False) -> Draft:
        """What there is now."""
        return Draft(
            concept=self.concept,
            source=self._best("source"),
            target=self._best("target"),
            refused=dict(self._refused),
            tried=self._tried,
            seconds=self._clock() - self._begun,
            done=done,
            message=" ".join(filter(None, [self._shortfall(), self._note])) if done else "",
        )

    def _best(self, side: Side) -> tuple[str, ...]:
        losses = self._losses[side]
        kept = sorted(range(len(losses)), key=losses.__getitem__)[: self._count]
        return tuple(self._texts[side][i] for i in sorted(kept))

    def _shortfall(self) -> str:
        got = {side: min(len(texts), self._count) for side, texts in self._texts.items()}
        if min(got.values()) >= self._count:
            return ""
        why = f"in {self._seconds:.0f} s" if self._late() else f"among {self._tried} written"
        why = "before it was stopped" if self._stopped() else why
        return (
            f"Wrote {got['source']} source and {got['target']} target prompts of {self._count} "
            f"each {why}. Add the rest by hand, or write again with another seed or other words."
        )

    def _stopped(self) -> bool:
        return self._asked is not None and self._asked()

    def _late(self) -> bool:
        return self._clock() - self._begun >= self._seconds

    def _tired(self) -> bool:
        return self._tried >= 2 * TRIES_A_PROMPT * self._count
