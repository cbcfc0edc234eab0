"""A conversation with two answers to each question, as the page holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lineas_core.errors import ConfigError
from lineas_core.models.language.chat import Message

MAX_TURNS = 12


@dataclass(frozen=True)
class Turn:
    """One question and its answers.

    Attributes:
        question: what was asked.
        untouched: the answer of the model as it is.
        steered: the answer with the maps on.
        maps: which maps, at which strengths, in words; "" where none was on.
    """

    question: str
    untouched: str = ""
    steered: str = ""
    maps: str = ""


def from_page(value: Any) -> tuple[Turn, ...]:
    """The turns that `to_page` wrote.

    Raises:
        ConfigError: they are not turns.
    """
    try:
        return tuple(Turn(**{name: str(text) for name, text in raw.items()}) for raw in value or ())
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f"chat is not a list of turns ({error}); press New chat to begin again."
        ) from error


def to_page(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The turns as the page holds them."""
    return [asdict(turn) for turn in turns]


def messages(turns: Sequence[Turn], question: str, *, steered: bool) -> list[Message]:
    """What one of the two models has read when it answers the question: its own answers."""
    found: list[Message] = []
    for turn in turns:
        found.append({"role": "user", "content": turn.question})
        answer = turn.steered if steered else turn.untouched
        found.append({"role": "assistant", "content": answer})
    return [*found, {"role": "user", "content": question}]
