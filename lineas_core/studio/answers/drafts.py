"""Prompt sets written by a language model."""

from __future__ import annotations

from collections.abc import Iterator

from lineas_core.models.load import as_language_model
from lineas_core.prompts.subjects import SUBJECTS
from lineas_core.prompts.writing.candidates import Draft
from lineas_core.prompts.writing.writer import write_image_prompts, write_text_prompts
from lineas_core.studio.answers.prompts import Modality
from lineas_core.studio.jobs.device.inference import Inference


class Drafts:
    """Write prompt sets with a language model.

    Args:
        inference: loads and runs the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._drafts = inference.on_gpu(self._drafts_here)

    def write(self, writer: str, modality: Modality, concept: str, seed: int) -> Iterator[Draft]:
        """Yield the prompt set so far, each time more prompts are accepted.

        Args:
            writer: a language model's name.
            modality: modality of the model that the prompts are for.
            concept: the concept that the prompts should express.
            seed: sampling seed.
        """
        with self._inference.serving(writer):
            yield from self._drafts(writer, modality, concept, seed)

    def _drafts_here(
        self, writer: str, modality: Modality, concept: str, seed: int
    ) -> Iterator[Draft]:
        model = as_language_model(self._inference.model(writer))
        if modality == "image":
            yield from write_image_prompts(model, concept, subjects=SUBJECTS, seed=seed)
        else:
            yield from write_text_prompts(model, concept, seed=seed)
