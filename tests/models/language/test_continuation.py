"""Sampled continuations of a list: losses agree with the plain model, noise depends on the seed."""

import pytest
import torch

from lineas_core.models.language.continuation import Continuer

STARTS = [" A", " The old", " Every morning", " I", " Two", " At the end of", " We", " My"]


def never() -> bool:
    return False


def test_losses_are_those_of_the_whole_text_read_at_once(tiny) -> None:
    leads = ("Sentences about bees:\n-", "Other:\n-")
    here, there = (Continuer(tiny, lead) for lead in leads)
    lines = here.write(STARTS, range(8), never)
    assert here.losses(lines) == pytest.approx([line.loss for line in lines], abs=1e-4)
    for writer, lead in zip((here, there), leads, strict=True):
        expected = []
        for line in lines:
            before = [*tiny.tokenizer(lead)["input_ids"], *line.ids[0]]
            whole = torch.tensor([before + list(line.ids[1])])
            predicted = tiny.module(whole).logits[0, len(before) - 1 : -1]
            expected.append(
                float(torch.nn.functional.cross_entropy(predicted, whole[0, len(before) :]))
            )
        assert writer.losses(lines) == pytest.approx(expected, abs=1e-4)


def test_a_line_depends_on_its_start_and_seed_alone(tiny) -> None:
    writer = Continuer(tiny, "Sentences:\n-")
    together = writer.write(STARTS, range(8), never, most_tokens=45)
    assert len({len(line.ids[1]) for line in together}) > 1, "lines end at different times"
    for i, line in list(enumerate(together))[::2]:
        (alone,) = writer.write([STARTS[i]], [i], never, most_tokens=45)
        assert alone.ids == line.ids
        assert alone.loss == pytest.approx(line.loss, abs=1e-4)
    (other,) = writer.write([STARTS[0]], [99], never, most_tokens=45)
    assert other.ids != together[0].ids


def test_the_same_seed_writes_the_same(tiny) -> None:
    first, second = (
        Continuer(tiny, "Sentences:\n-").write(STARTS, range(seed, seed + 8), never)
        for seed in (5, 5)
    )
    assert first == second
