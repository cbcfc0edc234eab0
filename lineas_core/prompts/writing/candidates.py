"""Collects the prompts that a model writes, and selects those to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lineas_core.metrics.concepts import concept_words
from lineas_core.metrics.own_words import own_words, words_presence
from lineas_core.models.language.continuation import Stop
from lineas_core.prompts.checks import first_like
from lineas_core.prompts.filters import content_words, stem_of
from lineas_core.prompts.prompt_set import PromptSet, Side
from lineas_core.system.words import counted

BATCH = 32
MIN_BATCH = 8
TRIES_A_PROMPT = 16
# Extra prompts to write and choose from, as a multiple of the number wanted.
SPARE = 3.0
# n -> maximum number of prompts per side that share their first n words. The likeliest are kept.
SAME_BEGINNING = {2: 2, 3: 1}
# The same for the last n words.
SAME_END = {3: 1}
SAME_WORD = 3
# Maximum number of prompts per side that share a frame.
SAME_FRAME = 2
# Number of targets that must contain a word for it to be the topic's own (metrics.own_words).
WORD_TEXTS = 2
# Bonus, in nats per token, for each topic word that fewer than two targets contain so far.
NEW_WORD = 1.2

Clock = Callable[[], float]


@dataclass(frozen=True)
class Draft:
    """The prompts written so far.

    Attributes:
        concept: what the target is about, or its style.
        source: the likeliest of the accepted source prompts, in the order they were written.
        target: likewise.
        refused: reason -> number of prompts refused for it.
        tried: number of prompts written.
        seconds: time since the start.
        done: whether this is the last draft.
        message: in the last draft, how many prompts are missing and why, and what to know.
        frames: frame (`Topic.frame`) -> number of targets with it; empty for captions.
        own: the topic's own words in the target, measured against the source.
    """

    concept: str
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    tried: int = 0
    seconds: float = 0.0
    done: bool = False
    message: str = ""
    frames: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    own: tuple[str, ...] = ()

    @property
    def variety(self) -> str:
        """How varied the target is, in words; empty for captions."""
        if not self.frames:
            return ""
        most = counted(max(self.frames.values()), "time")
        return (
            f"{counted(len(self.frames), 'frame')}, none more than {most}; "
            f"{counted(len(self.own), 'word')} of the topic's own: {', '.join(self.own)}."
        )

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


@dataclass(frozen=True)
class _Line:
    """A candidate prompt.

    Attributes:
        text: the prompt.
        loss: prompts with a smaller loss are preferred.
        limits: feature -> maximum number of kept prompts that share it.
        partner: the target that belongs to a source.
        frame: the words around its topic (`Topic.frame`).
        words: the topic's own words in it.
    """

    text: str
    loss: float
    limits: Mapping[tuple[str, ...], int]
    partner: str
    frame: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()


class Sheet:
    """Collects written prompts, and selects the likeliest that differ from each other.

    Args:
        concept: what they are about.
        count: number of prompts wanted per side.
        seconds: time limit.
        should_stop: returns whether the user asked to stop.
        clock: returns the time in seconds, from any origin.
        note: message to include in the last draft in any case.
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
        self._asked, self._clock, self._started = should_stop, clock, clock()
        self._note = note
        self._lines: dict[Side, list[_Line]] = {"source": [], "target": []}
        # Selected again only when a side has grown, because each draft and each batch needs them.
        self._kept: dict[Side, tuple[int, tuple[_Line, ...]]] = {}
        self._refused: Counter[str] = Counter()
        self._tried = 0
        self._room = count + int(SPARE * count)

    def stop(self) -> bool:
        """Whether the user asked to stop, or the time is up."""
        return self._stopped() or self._late()

    def ended(self, sides: Sequence[Side]) -> bool:
        """Whether there is nothing more to write."""
        return all(map(self._full, sides)) or self._exhausted() or self.stop()

    def shortest(self) -> Side:
        """The side that needs more prompts."""
        sides: tuple[Side, Side] = ("target", "source")
        return min(sides, key=lambda side: (self._full(side), len(self._lines[side])))

    def batch(self, side: Side) -> int:
        """How many to write at once: more than are missing, as about a quarter are refused."""
        missing = self._room - len(self._lines[side])
        return max(MIN_BATCH, min(BATCH, missing * 3 // 2))

    def take(
        self,
        side: Side,
        text: str,
        flaw: str,
        loss: float,
        *,
        plain: bool = False,
        partner: str = "",
        frame: tuple[str, ...] = (),
        own: frozenset[str] = frozenset(),
    ) -> None:
        """Add a written text to the candidates if it has no flaw, and count it.

        Args:
            side: source or target.
            text: what was written.
            flaw: the flaw found so far; empty for none.
            loss: texts with a smaller loss are preferred.
            plain: limit the number of texts about the same things.
            partner: the target that belongs to a source.
            frame: the words around its topic; at most `SAME_FRAME` texts share one.
            own: topic words in it; texts with words that few others contain are preferred.
        """
        self._tried += 1
        if not flaw and any(line.text == text for line in self._lines[side]):
            flaw = "written before"
        if flaw:
            self._refused[flaw] += 1
            return
        words = text.lower().split()
        limits = {("begins", *words[:n]): limit for n, limit in SAME_BEGINNING.items()}
        limits |= {("ends", *words[-n:]): limit for n, limit in SAME_END.items()}
        if frame:
            limits["frame", *frame] = SAME_FRAME
        if plain:
            # Sentences about a concept share its words; everyday ones should be about many things.
            limits |= {("about", stem_of(word)): SAME_WORD for word in content_words(text)}
        self._lines[side].append(_Line(text, loss, limits, partner, frame, own))

    def draft(self, done: bool = False) -> Draft:
        """The current draft."""
        source, target = self._best("source"), self._best("target")
        frames = Counter(line.frame for line in target if line.frame)
        sides = tuple(line.text for line in source), tuple(line.text for line in target)
        words = own_words(*sides, self.concept) if frames else ()
        return Draft(
            concept=self.concept,
            source=sides[0],
            target=sides[1] or tuple(line.partner for line in source),
            refused=dict(self._refused),
            tried=self._tried,
            seconds=self._clock() - self._started,
            done=done,
            message=" ".join(filter(None, [self._shortfall(), self._note])) if done else "",
            frames=dict(frames),
            own=tuple(word for word in words if any(words_presence(sides[1], [word]))),
        )

    def _best(self, side: Side) -> tuple[_Line, ...]:
        """The likeliest that differ, in the order they were written."""
        lines = self._lines[side]
        length, kept = self._kept.get(side, (0, ()))
        if length != len(lines):
            kept = self._chosen(lines)
            self._kept[side] = len(lines), kept
        return kept

    def _chosen(self, lines: Sequence[_Line]) -> tuple[_Line, ...]:
        shared: Counter[tuple[str, ...]] = Counter()
        held: Counter[str] = Counter()
        chosen: list[int] = []
        left = set(range(len(lines)))

        def cost(i: int) -> tuple[float, int]:
            # A word that one target already contains counts twice, so that a second one follows.
            new = sum(1 + held[word] for word in lines[i].words if held[word] < WORD_TEXTS)
            return lines[i].loss - NEW_WORD * new, i

        while left and len(chosen) < self._count:
            i = min(left, key=cost)
            left.remove(i)
            line = lines[i]
            if any(shared[key] >= limit for key, limit in line.limits.items()):
                continue
            if first_like(line.text, [lines[j].text for j in chosen]) is not None:
                continue
            chosen.append(i)
            shared.update(line.limits.keys())
            held.update(line.words)
        return tuple(lines[i] for i in sorted(chosen))

    def _full(self, side: Side) -> bool:
        return len(self._lines[side]) >= self._room and len(self._best(side)) >= self._count

    def _shortfall(self) -> str:
        draft = self._best("source"), self._best("target") or self._best("source")
        got = [len(lines) for lines in draft]
        if min(got) >= self._count:
            return ""
        why = f"in {self._seconds:.0f} s" if self._late() else f"among {self._tried} written"
        why = "before it was stopped" if self._stopped() else why
        return (
            f"Wrote {got[0]} source and {got[1]} target prompts of {self._count} "
            f"each {why}. Add the rest by hand, or write again with another seed or other words."
        )

    def _stopped(self) -> bool:
        return self._asked is not None and self._asked()

    def _late(self) -> bool:
        return self._clock() - self._started >= self._seconds

    def _exhausted(self) -> bool:
        return self._tried >= 2 * TRIES_A_PROMPT * self._count
