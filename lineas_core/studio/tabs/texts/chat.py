"""What the text tab does in chat mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lineas_core.errors import ConfigError, PromptError
from lineas_core.models.load import as_language_model
from lineas_core.prompts.prompt_set import LONGEST_PROMPT
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.conversation import MOST_TURNS, Turn, from_page, messages, to_page
from lineas_core.studio.answers.texts import checked_length, stream_sides, whole
from lineas_core.studio.app import Studio, with_messages
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.views import completions

# The turns, what is shown of them, and the field of the next question.
Shown = tuple[list[dict[str, str]], str, str]


class Chats:
    """Callbacks of the chat.

    Args:
        studio: the models and maps.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._answers = studio.on_gpu(self._answers_here)

    @with_messages
    def ask(
        self, key: str, model: str, rack: Any, chat: Any, question: str, seed: float, tokens: float
    ) -> Iterator[Shown]:
        """The untouched and the steered answer to one more question, as they are written."""
        yield from self._ask(key, model, rack, from_page(chat), question.strip(), seed, tokens)

    @with_messages
    def again(
        self, key: str, model: str, rack: Any, chat: Any, question: str, seed: float, tokens: float
    ) -> Iterator[Shown]:
        """The last question once more, with the maps as they are on now."""
        turns = from_page(chat)
        if not turns:
            raise ConfigError("There is no question to answer again; ask one first.")
        last = turns[-1].question
        for found, shown, _ in self._ask(key, model, rack, turns[:-1], last, seed, tokens):
            yield found, shown, question

    @with_messages
    def undo(self, chat: Any) -> Shown:
        """Take the last turn back; its question returns to the field."""
        turns = from_page(chat)
        question = turns[-1].question if turns else ""
        return to_page(turns[:-1]), completions.chat(turns[:-1]), question

    @with_messages
    def new(self) -> Shown:
        """An empty conversation."""
        return [], completions.chat(()), ""

    def _ask(
        self,
        key: str,
        model: str,
        rack: Any,
        turns: Sequence[Turn],
        question: str,
        seed: float,
        tokens: float,
    ) -> Iterator[Shown]:
        length, number = checked_length(question, tokens), whole("seed", seed)
        if len(question) > LONGEST_PROMPT:
            raise PromptError(
                f"The question has {len(question)} characters; {LONGEST_PROMPT} at most are read. "
                "Shorten it."
            )
        if len(turns) >= MOST_TURNS:
            raise ConfigError(
                f"The chat has {len(turns)} questions, and {MOST_TURNS} is the limit. Press New "
                "chat, or take the last one back."
            )
        mix = self._studio.mix(owner_of(key), RackState.from_page(rack), model)
        for state in self._studio.preparation.waits(model):
            yield to_page(turns), completions.waiting(state), question
        with self._studio.turns.sliders():
            self._studio.load(model)
            for texts, done in self._answers(mix, model, turns, question, number, length):
                asked = [*turns, Turn(question, texts[0], texts[1], mix.titles)]
                yield to_page(asked), completions.chat(asked, mix.concepts, writing=not done), ""

    def _answers_here(
        self,
        mix: Mix,
        model: str,
        turns: Sequence[Turn],
        question: str,
        seed: int,
        tokens: int,
    ) -> Iterator[tuple[Sequence[str], bool]]:
        loaded = as_language_model(self._studio.shelf.get(model))
        if not loaded.chats:
            raise PromptError(
                f"{model} has no chat template: it completes texts and does not answer. Choose "
                "Complete above, or an instruct model such as smollm2."
            )
        prompts = [messages(turns, question, steered=side) for side in (False, True)]
        texts: Sequence[str] = ("", "")
        for texts in stream_sides(loaded, prompts, [[], mix.steer], seed, tokens):
            yield texts, False
        yield texts, True
