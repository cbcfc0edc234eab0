"""Callbacks of the text tab in chat mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lineas_core.errors import ConfigError
from lineas_core.studio.access.error_messages import with_messages
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.conversation import MAX_TURNS, Turn, from_page, to_page
from lineas_core.studio.answers.fields import checked_length, whole
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.views import completions


class ChatOutputs(NamedTuple):
    """Outputs of the chat callbacks."""

    turns: Any
    shown: Any
    question: Any


class ChatCallbacks:
    """Callbacks of the chat.

    Args:
        studio: gives access to the models and maps.
        answers: generates the model's answers.
    """

    def __init__(self, studio: Studio, answers: Answers) -> None:
        self._studio, self._chats = studio, answers.chats

    @with_messages
    def ask(
        self, key: str, model: str, rack: Any, chat: Any, question: str, seed: float, tokens: float
    ) -> Iterator[ChatOutputs]:
        """Stream the untouched and the steered answer to a new question."""
        yield from self._ask(key, model, rack, from_page(chat), question.strip(), seed, tokens)

    @with_messages
    def again(
        self, key: str, model: str, rack: Any, chat: Any, question: str, seed: float, tokens: float
    ) -> Iterator[ChatOutputs]:
        """Answer the last question again, with the maps that are on now."""
        turns = from_page(chat)
        if not turns:
            raise ConfigError("There is no question to answer again; ask one first.")
        last = turns[-1].question
        for outputs in self._ask(key, model, rack, turns[:-1], last, seed, tokens):
            yield outputs._replace(question=question)

    @with_messages
    def undo(self, chat: Any) -> ChatOutputs:
        """Remove the last turn and put its question back into the field."""
        turns = from_page(chat)
        question = turns[-1].question if turns else ""
        return ChatOutputs(to_page(turns[:-1]), completions.chat(turns[:-1]), question)

    @with_messages
    def new(self) -> ChatOutputs:
        """Start an empty conversation."""
        return ChatOutputs([], completions.chat(()), "")

    def _ask(
        self,
        key: str,
        model: str,
        rack: Any,
        turns: Sequence[Turn],
        question: str,
        seed: float,
        tokens: float,
    ) -> Iterator[ChatOutputs]:
        length, number = checked_length(question, tokens), whole("seed", seed)
        if len(turns) >= MAX_TURNS:
            raise ConfigError(
                f"The chat has {len(turns)} questions, and {MAX_TURNS} is the limit. Press New "
                "chat, or take the last one back."
            )
        mix = self._studio.mix(owner_of(key), RackState.from_page(rack), model)
        for state in self._studio.inference.waits(model):
            yield ChatOutputs(to_page(turns), completions.waiting(state), question)
        for texts, done in self._chats.answers(mix, model, turns, question, number, length):
            asked = [*turns, Turn(question, texts[0], texts[1], mix.titles)]
            shown = completions.chat(asked, mix.concepts, writing=not done)
            yield ChatOutputs(to_page(asked), shown, "")
