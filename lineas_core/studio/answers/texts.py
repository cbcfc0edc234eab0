"""Completions of a language model, with and without maps, and what is measured of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import Steering
from lineas_core.models.language.model import TextGrid
from lineas_core.models.load import as_language_model
from lineas_core.studio.answers.fields import whole
from lineas_core.studio.answers.own_concepts import OwnConcept
from lineas_core.studio.answers.readouts import Readout, read_out
from lineas_core.studio.answers.streaming import stream_sides
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.rack.mix import Mix

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_SAMPLES = 4


class Texts:
    """Writes and measures completions.

    Args:
        inference: the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._sides, self._sweep, self._complete = (
            inference.on_gpu(self._sides_here),
            inference.on_gpu(self._sweep_here),
            inference.on_gpu(self._complete_here),
        )

    def sides(
        self,
        sides: Sequence[Steering],
        concepts: Sequence[str],
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> Iterator[tuple[Sequence[str], list[Readout]]]:
        """A completion for each side, as they are written; readouts of them come at the end.

        Args:
            sides: the maps that each is steered by.
            concepts: to look for, where there are word lists.
            model: a language model's name.
            prompt: what they follow.
            seed: of each.
            tokens: to write.
            own: concepts to look for besides.
        """
        with self._inference.serving(model):
            yield from self._sides(sides, concepts, model, prompt, seed, tokens, own)

    def pair(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> Iterator[tuple[Sequence[str], list[Readout]]]:
        """The unsteered and the steered completion, as `sides` gives them."""
        yield from self.sides([[], mix.steer], mix.concepts, model, prompt, seed, tokens, own)

    def whole_pair(
        self, mix: Mix, model: str, prompt: str, seed: int, tokens: int
    ) -> Sequence[str]:
        """The unsteered and the steered completion, at their end."""
        *_, (texts, _) = self.pair(mix, model, prompt, seed, tokens)
        return texts

    def sweep(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seed: int,
        tokens: int,
        samples: float,
        own: Sequence[OwnConcept] = (),
    ) -> tuple[TextGrid, list[Readout]]:
        """Completions while the first map goes from 0 to 1, and the readout of each strength.

        Args:
            mix: the maps that are on.
            model: a language model's name.
            prompt: what they follow.
            seed: of the first row.
            tokens: to write.
            samples: rows, each on a seed of its own.
            own: concepts to look for besides those of the maps.

        Raises:
            ConfigError: no map is on, or there are too many samples.
        """
        if not mix.maps:
            raise ConfigError("No map is on. Switch one on in the rack; the first one is swept.")
        count = whole("samples", samples)
        if not 1 <= count <= MAX_SAMPLES:
            raise ConfigError(f"samples is {count}; choose 1 to {MAX_SAMPLES}.")
        with self._inference.serving(model):
            return self._sweep(mix, model, prompt, range(seed, seed + count), tokens, own)

    def complete(self, mix: Mix, model: str, prompt: str, seed: int, tokens: int) -> str:
        """One completion with the maps on."""
        with self._inference.serving(model):
            return self._complete(mix, model, prompt, seed, tokens)

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
        loaded = as_language_model(self._inference.model(model))
        texts: Sequence[str] = ("",) * len(sides)
        for texts in stream_sides(loaded, [prompt] * len(sides), sides, seed, tokens):
            yield texts, []
        yield texts, [read_out(loaded, prompt, [text], concepts, own) for text in texts]

    def _sweep_here(
        self,
        mix: Mix,
        model: str,
        prompt: str,
        seeds: Sequence[int],
        tokens: int,
        own: Sequence[OwnConcept] = (),
    ) -> tuple[TextGrid, list[Readout]]:
        loaded = as_language_model(self._inference.model(model))
        maps = [(smap, None if n == 0 else s) for n, (smap, s) in enumerate(mix.steer)]
        grid = loaded.sweep([prompt] * len(seeds), maps, SWEEP, seed=seeds, max_new_tokens=tokens)
        columns = zip(*grid.texts, strict=True)
        return grid, [read_out(loaded, prompt, column, mix.concepts, own) for column in columns]

    def _complete_here(self, mix: Mix, model: str, prompt: str, seed: int, tokens: int) -> str:
        loaded = as_language_model(self._inference.model(model))
        return loaded.generate([prompt], mix.steer, seed=seed, max_new_tokens=tokens)[0]
