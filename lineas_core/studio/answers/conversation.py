"""A conversation with two answers per question, and its JSON form on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lineas_core.errors import ConfigError
from lineas_core.models.language.chat import Message
from lineas_core.studio.access.text_limits import check_characters

MAX_TURNS = 12


@dataclass(frozen=True)
class Turn:
    """One question and its two answers.

    Attributes:
        question: the user's question.
        untouched: the answer of the unsteered model.
        steered: the answer with the maps on.
        maps: description of the maps and their strengths; "" if no map was on.
    """

    question: str
    untouched: str = ""
    steered: str = ""
    maps: str = ""


def from_page(value: Any) -> tuple[Turn, ...]:
    """Parse the turns that `to_page` wrote.

    Raises:
        ConfigError: the value is not a list of turns, or of too many.
        PromptError: a question or an answer is too long.
    """
    try:
        turns = tuple(
            Turn(**{name: str(text) for name, text in raw.items()}) for raw in value or ()
        )
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f"chat is not a list of turns ({error}); press New chat to begin again."
        ) from error
    if len(turns) > MAX_TURNS:
        raise ConfigError(
            f"The chat has {len(turns)} questions, and {MAX_TURNS} is the limit. Press New chat."
        )
    for turn in turns:
        for text in (turn.question, turn.untouched, turn.steered):
            check_characters(text)
    return turns


def to_page(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Convert the turns to the list of dicts that the page stores."""
    return [asdict(turn) for turn in turns]


def messages(turns: Sequence[Turn], question: str, *, steered: bool) -> list[Message]:
    """The messages that the steered or the unsteered model answers.

    They contain only that model's own earlier answers.
    """
    found: list[Message] = []
    for turn in turns:
        found.append({"role": "user", "content": turn.question})
        answer = turn.steered if steered else turn.untouched
        found.append({"role": "assistant", "content": answer})
    return [*found, {"role": "user", "content": question}]
