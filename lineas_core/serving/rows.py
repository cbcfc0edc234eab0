"""One answer as it is written: what of it can be shown, and when and why it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lineas_core.models.language.decoding import Completion

# What a tokenizer writes for bytes that are not a whole character, or not one yet.
UNREADABLE = "\ufffd"

Finish = Literal["stop", "length"]


class Shown(NamedTuple):
    """What can be shown of an answer.

    Attributes:
        text: all of it so far; what comes later begins with it.
        finish: why it ended: "stop" where the model or a stop text ended it, "length" where
            `max_tokens` did. None while more is to come.
        tokens: number of tokens that were written.
    """

    text: str
    finish: Finish | None
    tokens: int


NOTHING = Shown("", None, 0)


@dataclass
class Row:
    """An answer that is being written.

    Attributes:
        stops: texts that it ends before.
        room: tokens that it may have.
        text_of: the text of some tokens.
        shown: what can be shown of it.
    """

    stops: Sequence[str]
    room: int
    text_of: Callable[[Sequence[int]], str]
    shown: Shown = NOTHING

    def read(self, completion: Completion) -> None:
        """Take in what has been written so far; nothing changes once the answer has ended.

        Where the answer ends depends on its tokens only, and not on how often they are read.
        """
        before = self.shown
        if before.finish:
            return
        tokens = completion.tokens[: self.room]
        text = completion.text if len(tokens) == len(completion.tokens) else self.text_of(tokens)
        if find_stop(text, self.stops) is not None:
            for count in range(before.tokens + 1, len(tokens) + 1):
                text = self.text_of(tokens[:count])
                if (cut := find_stop(text, self.stops)) is not None:
                    self.shown = Shown(text[:cut], "stop", count)
                    return
        if len(tokens) == self.room:
            self.shown = Shown(text, "length", len(tokens))
        elif completion.ended:
            self.shown = Shown(text, "stop", len(tokens))
        else:
            self.shown = Shown(settled(text, self.stops), None, len(tokens))


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where to cut the text: before the stop text that is complete first; None without any.

    >>> find_stop("one two three", ["two three", "wo"])
    5
    """
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def settled(text: str, stops: Sequence[str]) -> str:
    """The text without an end that may yet become a character or a stop text.

    >>> settled("a line\\n", ["\\n\\n"])
    'a line'
    """
    text = text.rstrip(UNREADABLE)
    held = max(
        (
            length
            for stop in stops
            for length in range(1, len(stop))
            if text.endswith(stop[:length])
        ),
        default=0,
    )
    return text[: len(text) - held]
