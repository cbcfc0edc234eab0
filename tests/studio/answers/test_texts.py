from __future__ import annotations

import csv

import gradio as gr
import pytest

from lineas_core.models.language.model import LanguageModel
from lineas_core.models.shared.batches import TextGrid
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.readouts import Readout, read_out
from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.texts.callbacks import TextCallbacks
from lineas_core.studio.views import completions
from tests.helpers.studio import ANN, answers_of, rack


def test_a_pair_ends_with_its_readouts(studio: Studio, writer: str, words: str) -> None:
    shown = list(
        TextCallbacks(studio, answers_of(studio)).compare(
            ANN, writer, rack((words, 1.0)), "ab", 0, 9
        )
    )
    assert "ls-caret" in shown[0]
    assert "ls-caret" not in shown[-1]
    assert shown[-1].count("perplexity <b>") == shown[-1].count("toxicity <b>") == 2
    assert shown[-1].count("football <b>") == 2


def test_a_table_sweeps_the_first_map_over_seeds(studio: Studio, writer: str, words: str) -> None:
    mix = studio.mix(owner_of(ANN), _state(words), writer)
    grid, readouts = answers_of(studio).texts.sweep(mix, writer, "ab", 7, 6, 2)
    assert len(readouts) == len(grid.strengths) == 5
    model = studio.model_cache.get(writer)
    assert isinstance(model, LanguageModel)
    alone = model.generate(["ab"], [(mix.maps[0], 0.5)], seed=8, max_new_tokens=6)[0]
    assert grid.texts[1][2] == alone
    html, file = TextCallbacks(studio, answers_of(studio)).sweep(
        ANN, writer, rack((words, 0.2)), "ab", 7, 6, 2
    )
    with open(file["value"], encoding="utf-8-sig", newline="") as opened:
        kept = list(csv.DictReader(opened))
    assert [(row["seed"], row["strength"]) for row in kept[:2]] == [("7", "0.0"), ("7", "0.25")]
    assert len(kept) == 2 * 5 + 5
    assert all(float(row["perplexity"]) > 1 for row in kept[10:])
    assert html.count("<td>") == 15


def _state(words: str):
    from lineas_core.studio.rack.rack import RackState

    return RackState.from_page(rack((words, 0.2)))


def test_readouts_are_those_of_the_metrics(tiny: LanguageModel) -> None:
    found = read_out(tiny, "ab", ["a goalkeeper", "you idiot"], ["football", "no word list"])
    assert found.presence == (("football", 1, 2),)
    assert found.toxicity is not None
    assert 0 < found.toxicity < 1
    joined = tiny.token_losses(["a goalkeeper", "you idiot"], ["ab", "ab"])
    total = sum(float(losses.sum()) for losses in joined) / sum(map(len, joined))
    assert found.perplexity == pytest.approx(2.718281828**total, rel=1e-4)
    assert read_out(tiny, "ab", [""], []).perplexity is None


def test_texts_are_shown_as_text_with_the_concepts_marked() -> None:
    grid = TextGrid(["<b>A"], [0.0, 1.0], [["<script>x</script>", " soccer & <i>tea</i> moon"]])
    plain = Readout((), None, "why <not>", None)
    shown = completions.text_sweep(grid, [plain, plain], ["football", "night"], 7)
    assert "seed 7" in shown
    assert "<script>" not in shown
    assert "<i>" not in shown
    assert "<not>" not in shown
    assert "&lt;b&gt;A" in shown
    assert "<mark>soccer</mark> &amp; &lt;i&gt;" in shown
    assert "<mark>moon</mark>" in shown
    assert shown.count("not scored") == 4
    assert completions.mark("a <b", ["no such concept"]) == "a &lt;b"


def test_mistakes_about_texts_become_messages(
    studio: Studio, writer: str, words: str, painter: str
) -> None:
    texts, on = TextCallbacks(studio, answers_of(studio)), rack((words, 1.0))
    for arguments, message in (
        ((ANN, writer, on, "  ", 0, 9), "prompt is empty"),
        ((ANN, writer, on, "ab", 0, 900), "tokens is 900"),
        ((ANN, painter, on, "ab", 0, 9), "choose a language model"),
    ):
        with pytest.raises(gr.Error, match=message):
            list(texts.compare(*arguments))
    with pytest.raises(gr.Error, match="No map is on"):
        texts.sweep(ANN, writer, rack(), "ab", 0, 9, 2)
    with pytest.raises(gr.Error, match="samples is 9"):
        texts.sweep(ANN, writer, on, "ab", 0, 9, 9)
