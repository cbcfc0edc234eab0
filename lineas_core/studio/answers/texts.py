"""What the text tab does."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from lineas_core.errors import ConfigError, PromptError
from lineas_core.maps.steering_map import Steering
from lineas_core.models.language.chat import Prompt
from lineas_core.models.language.model import LanguageModel, TextGrid
from lineas_core.models.load import as_language_model
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.own_concepts import OwnConcept, as_field, own_concepts
from lineas_core.studio.answers.readouts import Readout, read_out
from lineas_core.studio.app import Studio, with_messages
from lineas_core.studio.rack.drawn_from import drawn, question_of
from lineas_core.studio.rack.mix import Mix
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.rack.scene_tag import with_scene
from lineas_core.studio.views import completions
from lineas_core.studio.views.csv_tables import text_rows, write_csv

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_TOKENS = 160
MOST_SAMPLES = 4


class Texts:
    """Callbacks of the text tab.

    Args:
        studio: the models and maps.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._pair, self._sides, self._table, self._once = (
            studio.on_gpu(self._pair_here),
            studio.on_gpu(self._sides_here),
            studio.on_gpu(self._table_here),
            studio.on_gpu(self._once_here),
        )

    @with_messages
    def compare(
        self,
        key: str,
        model: str,
        rack: Any,
        prompt: str,
        seed: float,
        tokens: float,
        words: str = "",
    ) -> Iterator[str]:
        """The unsteered completion beside the steered one, on one seed, as they are written."""
        mix = self._mix(key, model, rack)
        own = own_concepts(mix.rows, words)
        length = checked_length(prompt, tokens)
        titles = ("Unsteered", mix.titles or "No map is on")
        asked = question_of(mix, model, prompt, seed, tokens)
        for waiting in self._studio.preparation.waits(model):
            yield completions.waiting(waiting)
        with self._studio.turns.sliders():
            self._studio.load(model)
            for texts, readouts in self._pair(mix, model, prompt, whole("seed", seed), length, own):
                cards = completions.pair(
                    prompt,
                    titles,
                    texts,
                    mix.concepts,
                    writing=not readouts,
                    readouts=readouts,
                    own=own,
                )
                made = with_scene(
                    cards, rack, model=model, prompts=prompt, seed=whole("seed", seed),
                    tokens=length,
                )  # fmt: skip
                yield drawn(made, "text", asked)

    @with_messages
    def sweep(
        self,
        key: str,
        model: str,
        rack: Any,
        prompt: str,
        seed: float,
        tokens: float,
        samples: float,
        words: str = "",
    ) -> tuple[str, Any]:
        """Completions on several seeds while the first map goes from 0 to 1, and their CSV."""
        mix = self._mix(key, model, rack)
        own = own_concepts(mix.rows, words)
        first = whole("seed", seed)
        grid, readouts = self.table(
            mix, model, prompt, first, checked_length(prompt, tokens), samples, own
        )
        file = write_csv(
            self._studio.download_folder() / "completions.csv", *text_rows(grid, readouts, first)
        )
        table = completions.text_sweep(grid, readouts, mix.concepts, first, own)
        asked = question_of(mix, model, prompt, seed, tokens, swept=1)
        return drawn(table, "text", asked, again="#sweep"), gr.update(value=file, interactive=True)

    @with_messages
    def words(self, key: str, model: str, rack: Any, shown: str) -> str:
        """What counts as each concept that has no published list: as edited, else its prompts'."""
        return as_field(own_concepts(self._mix(key, model, rack).rows, shown))

    def table(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        samples: float,
        own: Sequence[OwnConcept] = (),
    ) -> tuple[TextGrid, list[Readout]]:
        """The sweep's completions, and what is measured of each strength's."""
        if not mix.maps:
            raise ConfigError("No map is on. Switch one on in the rack; the first one is swept.")
        count = whole("samples", samples)
        if not 1 <= count <= MOST_SAMPLES:
            raise ConfigError(f"samples is {count}; choose 1 to {MOST_SAMPLES}.")
        with self._studio.turns.sliders():
            self._studio.load(model)
            return self._table(mix, model, prompt, range(seed, seed + count), tokens, own)

    def pair(self, mix: Mix, model: str, prompt: str, seed: int, tokens: int) -> Sequence[str]:
        """The unsteered and the steered completion, whole."""
        with self._studio.turns.sliders():
            self._studio.load(model)
            *_, (texts, _) = self._pair(mix, model, prompt, seed, tokens)
        return texts

    def sides(
        self,
        sides: Sequence[Steering],
        concepts: Sequence[str],
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
    ) -> Iterator[tuple[Sequence[str], list[Readout]]]:
        """A completion for each side, as they are written; readouts of them come at the end."""
        with self._studio.turns.sliders():
            self._studio.load(model)
            yield from self._sides(sides, concepts, model, prompt, seed, tokens)

    def once(self, mix: Mix, model: str, prompt: str, seed: int, tokens: int) -> str:
        """One completion with the maps on."""
        with self._studio.turns.sliders():
            self._studio.load(model)
            return self._once(mix, model, prompt, seed, tokens)

    def _pair_here(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> Iterator[tuple[Sequence[str], list[Readout]]]:
        sides: list[Steering] = [[], mix.steer]
        yield from self._sides_here(sides, mix.concepts, model, prompt, seed, tokens, own)

    def _sides_here(
        self,
        sides: Sequence[Steering],
        concepts: Sequence[str],
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> Iterator[tuple[Sequence[str], list[Readout]]]:
        loaded = as_language_model(self._studio.shelf.get(model))
        texts: Sequence[str] = ("",) * len(sides)
        for texts in stream_sides(loaded, [prompt] * len(sides), sides, seed, tokens):
            yield texts, []
        yield texts, [read_out(loaded, prompt, [text], concepts, own) for text in texts]

    def _table_here(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seeds: Sequence[int],
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> tuple[TextGrid, list[Readout]]:
        loaded = as_language_model(self._studio.shelf.get(model))
        maps = [(smap, None if n == 0 else s) for n, (smap, s) in enumerate(mix.steer)]
        grid = loaded.sweep([prompt] * len(seeds), maps, SWEEP, seed=seeds, max_new_tokens=tokens)
        columns = zip(*grid.texts, strict=True)
        return grid, [read_out(loaded, prompt, column, mix.concepts, own) for column in columns]

    def _once_here(self, mix: Mix, model: str, prompt: str, seed: int, tokens: int) -> str:
        loaded = as_language_model(self._studio.shelf.get(model))
        return loaded.generate([prompt], mix.steer, seed=seed, max_new_tokens=tokens)[0]

    def _mix(self, key: str, model: str, rack: Any) -> Mix:
        return self._studio.mix(owner_of(key), RackState.from_page(rack), model)


def stream_pair(
    model: LanguageModel, prompt: str, steer: Steering, seed: int, tokens: int
) -> Iterator[Sequence[str]]:
    """[unsteered, steered] so far, as `stream_sides` gives them."""
    yield from stream_sides(model, [prompt] * 2, [[], steer], seed, tokens)


def stream_sides(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    sides: Sequence[Steering],
    seed: int,
    tokens: int,
) -> Iterator[Sequence[str]]:
    """The completion of each side so far, at every look, and whole at the end.

    Leaving the iterator stops the writing within a few tokens.

    Args:
        model: that writes all of them at once.
        prompts: what each follows, a text or a conversation.
        sides: the maps that each is steered by, at one strength for a map.
        seed: of each.
        tokens: to write.
    """
    import torch

    # One batch: a map's strength is 0 in all samples but those of its own side.
    together: list[Any] = [
        (smap, torch.eye(len(sides))[n] * strength)
        for n, side in enumerate(sides)
        for smap, strength in side
    ]
    news: queue.SimpleQueue[list[str] | BaseException | None] = queue.SimpleQueue()
    left = threading.Event()

    def tell(texts: list[str]) -> None:
        if left.is_set():
            raise _LeftError
        news.put(texts)

    def write() -> None:
        try:
            news.put(
                model.generate(
                    prompts,
                    together,
                    seed=seed,
                    max_new_tokens=tokens,
                    on_texts=tell,
                )
            )
            news.put(None)
        except BaseException as error:
            news.put(error)

    threading.Thread(target=contextvars.copy_context().run, args=(write,), daemon=True).start()
    try:
        shown: list[str] = []
        while True:
            found = news.get()
            while not news.empty() and isinstance(found, list):
                shown = found
                found = news.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                yield shown
                return
            shown = found
            yield shown
    finally:
        left.set()


class _LeftError(Exception):
    """Whoever was reading has gone."""


def checked_length(prompt: str, tokens: float) -> int:
    """Tokens to write.

    Raises:
        PromptError: the prompt is empty.
        ConfigError: the tokens are out of range.
    """
    if not prompt.strip():
        raise PromptError("The prompt is empty; write at least one word.")
    length = whole("tokens", tokens)
    if not 1 <= length <= MOST_TOKENS:
        raise ConfigError(f"tokens is {length}; choose 1 to {MOST_TOKENS}.")
    return length


def whole(name: str, value: float | None) -> int:
    """A field's whole number.

    Raises:
        ConfigError: the field is empty, or holds none.
    """
    if value is None:
        raise ConfigError(f"The field {name} is empty; write a whole number in it.")
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} is {value!r}; give a whole number.") from error
