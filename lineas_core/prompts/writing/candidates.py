"""The prompts that a model has written so far, and which of them are kept."""

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
SMALLEST_BATCH = 8
TRIES_A_PROMPT = 16
# Of what is wanted, how much more is written to choose from.
SPARE = 3.0
# First words -> how many prompts of a side may share them. More are written: the likeliest stay.
SAME_BEGINNING = {2: 2, 3: 1}
# As many prompts of a side may share so many last words.
SAME_END = {3: 1}
SAME_WORD = 3
# Of one side, how many prompts may share a frame.
SAME_FRAME = 2
# A word counts as the topic's own where so many targets hold it (metrics.own_words).
WORD_TEXTS = 2
# Nats a token that a word in its first two targets is worth.
NEW_WORD = 1.2

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
        frames: frame -> how many targets hang their topic on it; empty for captions.
        own: words of the topic's own in the target, measured against the source.
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
    """A prompt that may be kept.

    Attributes:
        text: the prompt.
        loss: the smaller, the sooner it is kept.
        most: what it shares with others -> how many of those kept may share it.
        partner: the target that goes with a source.
        frame: what it hangs its topic on.
        words: of the topic's own, that it holds.
    """

    text: str
    loss: float
    most: Mapping[tuple[str, ...], int]
    partner: str
    frame: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()


class Sheet:
    """Collects the prompts that were written, and keeps the likeliest that differ.

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
        self._lines: dict[Side, list[_Line]] = {"source": [], "target": []}
        # Chosen anew when a side has grown; each draft and each batch asks for them.
        self._kept: dict[Side, tuple[int, tuple[_Line, ...]]] = {}
        self._refused: Counter[str] = Counter()
        self._tried = 0
        self._room = count + int(SPARE * count)

    def stop(self) -> bool:
        """Whether somebody asked for the end, or the time is up."""
        return self._stopped() or self._late()

    def ended(self, sides: Sequence[Side]) -> bool:
        """Whether there is nothing more to write."""
        return all(map(self._full, sides)) or self._tired() or self.stop()

    def shortest(self) -> Side:
        """The side that needs more."""
        sides: tuple[Side, Side] = ("target", "source")
        return min(sides, key=lambda side: (self._full(side), len(self._lines[side])))

    def batch(self, side: Side) -> int:
        """How many to write at once: more than what is missing, as about a quarter are refused."""
        missing = self._room - len(self._lines[side])
        return max(SMALLEST_BATCH, min(BATCH, missing * 3 // 2))

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
        """Note a text that has no flaw.

        Args:
            side: source or target.
            text: what was written.
            flaw: what is wrong with it already.
            loss: the smaller, the sooner it is kept.
            plain: keep few that are about the same things.
            partner: the target that goes with a source.
            frame: what it hangs its topic on; few that share one are kept.
            own: words of the topic in it; those that few hold are kept sooner.
        """
        self._tried += 1
        if not flaw and any(line.text == text for line in self._lines[side]):
            flaw = "written before"
        if flaw:
            self._refused[flaw] += 1
            return
        words = text.lower().split()
        most = {("begins", *words[:n]): most for n, most in SAME_BEGINNING.items()}
        most |= {("ends", *words[-n:]): most for n, most in SAME_END.items()}
        if frame:
            most["frame", *frame] = SAME_FRAME
        if plain:
            # Sentences about a concept share its words; everyday ones should be about many things.
            most |= {("about", stem_of(word)): SAME_WORD for word in content_words(text)}
        self._lines[side].append(_Line(text, loss, most, partner, frame, own))

    def draft(self, done: bool = False) -> Draft:
        """What there is now."""
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
            seconds=self._clock() - self._begun,
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
            # A word that one target holds already is not to stay alone.
            new = sum(1 + held[word] for word in lines[i].words if held[word] < WORD_TEXTS)
            return lines[i].loss - NEW_WORD * new, i

        while left and len(chosen) < self._count:
            i = min(left, key=cost)
            left.remove(i)
            line = lines[i]
            if any(shared[key] >= most for key, most in line.most.items()):
                continue
            if first_like(line.text, [lines[j].text for j in chosen]) is not None:
                continue
            chosen.append(i)
            shared.update(line.most.keys())
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
        return self._clock() - self._begun >= self._seconds

    def _tired(self) -> bool:
        return self._tried >= 2 * TRIES_A_PROMPT * self._count
