"""Chat answers, with and without maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lineas_core.errors import PromptError
from lineas_core.models.load import as_language_model
from lineas_core.scenes.streaming import stream_sides
from lineas_core.studio.answers.conversation import Turn, messages
from lineas_core.studio.jobs.device.inference import Inference
from lineas_core.studio.rack.mix import Mix


class Chats:
    """Generate chat answers.

    Args:
        inference: loads and runs the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._answers = inference.on_gpu(self._answers_here)

    def answers(
        self, mix: Mix, model: str, turns: Sequence[Turn], question: str, seed: int, tokens: int
    ) -> Iterator[tuple[Sequence[str], bool]]:
        """Stream the unsteered and the steered answer, and whether they are complete.

        Args:
            mix: the maps that are on.
            model: a language model's name.
            turns: the conversation so far.
            question: the question to answer.
            seed: sampling seed of both answers.
            tokens: maximum number of tokens to generate.

        Raises:
            PromptError: the model has no chat template.
        """
        with self._inference.serving(model):
            yield from self._answers(mix, model, turns, question, seed, tokens)

    def _answers_here(
        self,
        mix: Mix,
        model: str,
        turns: Sequence[Turn],
        question: str,
        seed: int,
        tokens: int,
    ) -> Iterator[tuple[Sequence[str], bool]]:
        loaded = as_language_model(self._inference.model(model))
        if not loaded.chats:
            raise PromptError(
                f"{model} has no chat template: it completes texts and does not answer. Choose "
                "Complete above, or an instruct model such as smollm2."
            )
        prompts = [messages(turns, question, steered=side) for side in (False, True)]
        self._inference.text_limits.check(loaded, prompts, tokens)
        texts: Sequence[str] = ("", "")
        for texts in stream_sides(loaded, prompts, [[], mix.steer], seed, tokens):
            yield texts, False
        yield texts, True
