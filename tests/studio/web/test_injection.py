"""What visitors and models write is shown as text, wherever the app shows it."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from types import GeneratorType
from typing import Any

import gradio as gr
import pytest
from PIL import Image

import lineas_core as lc
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.models.image.model import ImageGrid
from lineas_core.models.shared.batches import TextGrid
from lineas_core.scenes.scores import GridScores
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.answers.readouts import Readout
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs.frames import Frame
from lineas_core.studio.storage.store import JobRow
from lineas_core.studio.tabs.compare.callbacks import CompareCallbacks
from lineas_core.studio.tabs.library.callbacks import LibraryCallbacks
from lineas_core.studio.tabs.library.sharing import SharingCallbacks
from lineas_core.studio.tabs.train.prompts import PromptCallbacks
from lineas_core.studio.tabs.train.training import TrainingCallbacks
from lineas_core.studio.tabs.train.uploads import UploadCallbacks
from lineas_core.studio.tabs.understand.callbacks import UnderstandCallbacks
from lineas_core.studio.views import comparison, completions, job_cards, render
from lineas_core.studio.views.charts import strongest_neurons
from lineas_core.studio.web.api import Api
from lineas_core.studio.web.page import build_page
from tests.helpers.models import random_map
from tests.helpers.studio import ANN, BOB, answers_of

EVILS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" onmouseover="alert(1)',
    "</textarea></style><b>bold</b>",
    "[link](javascript:alert(1)) **bold** ![i](x)",
    "&lt;script&gt;",
)
EVIL = " ".join(EVILS)
OURS = frozenset(
    re.findall(
        r"\w+",
        "a article b br button circle dd details div dl dt em figcaption figure h1 h3 h4 header i "
        "img li mark nav ol p polyline small span strong summary svg table tbody td th thead tr ul",
    )
)


class Reader(HTMLParser):
    """Collects what a browser would make of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


def check(html: str, *, shown: bool = True) -> None:
    """Nothing of EVIL has become markup, and (where it is shown) it is there, letter by letter."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert set(reader.tags) <= OURS
    for name, value in reader.attributes:
        assert not name.startswith("on"), (name, value)
        if name == "src":
            assert value.startswith("data:image/"), value
        if name == "href":
            assert value.startswith(("?job=", "https://")), value
    if shown:
        texts = [reader.words, *(value for _, value in reader.attributes)]
        assert any(evil in text for evil in EVILS for text in texts)
        # A piece is either there as it was written, or not at all.
        assert "<b>bold</b>" not in html
        assert "<script" not in html


def evil_map(seed: int = 0) -> SteeringMap:
    smap = random_map({f"layer {EVIL}": 4}, seed)
    info = dataclasses.replace(
        smap.info, name=EVIL, concept=EVIL, model=EVIL, method=EVIL, created=EVIL,
        config={EVIL: EVIL},
    )  # fmt: skip
    return lc.SteeringMap(smap.sites, info)


EVIL_PROMPTS = lc.PromptSet(
    name=EVIL, title=EVIL[:60], concept=EVIL[:100],
    source=[f"{EVIL} {n}" for n in range(4)], target=[f"{n} {EVIL}" for n in range(4)],
)  # fmt: skip
JOB = JobRow("j" * 32, "ann", EVIL, EVIL_PROMPTS, title=EVIL, status="failed", message=EVIL,
             preview_prompt=EVIL, step=1, steps=2, losses=(1.0,), finished=1.0)  # fmt: skip
READOUT = Readout(((EVIL, 1, 2),), None, EVIL, 2.0)
IMAGE = Image.new("RGB", (8, 8))


def test_what_is_rendered_is_text(studio: Studio) -> None:
    row = studio.library.add_map(owner_of(ANN), evil_map(), prompts=EVIL_PROMPTS, tags=["<b>x"])
    grid = ImageGrid([EVIL], [0.0], [[IMAGE]])
    scores = GridScores(EVIL, EVIL, [[0.5]], [[0.5]])
    for html in (
        render.prompt_set(EVIL_PROMPTS),
        render.neurons(strongest_neurons(evil_map())),
        render.origin(row, evil_map()),
        render.pictures([EVIL], [IMAGE], {EVIL: [0.5]}, [None], EVIL),
        render.picture_grid(grid, scores, EVIL),
        render.picture_grid(grid, None, EVIL),
        job_cards.progress(JOB),
        job_cards.live(JOB, Frame(1, 1.0, 0.5, EVIL, EVIL)),
        job_cards.recent([JOB], ""),
        completions.pair(EVIL, (EVIL, EVIL), (EVIL, EVIL), [EVIL], readouts=[READOUT] * 2),
        completions.pair(EVIL, (EVIL,), (EVIL,), ["football"], writing=True),
        completions.text_sweep(TextGrid([EVIL], [1.0], [[EVIL]]), [READOUT], [EVIL], 0),
        comparison.progress([(JOB, 0, None)]),
        comparison.figures([row, row], [None, None], EVIL),
        comparison.texts(EVIL, [EVIL] * 2, [EVIL] * 2, [EVIL], [READOUT] * 2),
    ):
        check(html)


def every_text(value: Any) -> list[str]:
    if isinstance(value, GeneratorType):
        return every_text(list(value))
    if isinstance(value, list | tuple):
        return [text for part in value for text in every_text(part)]
    return [value] if isinstance(value, str) else []


def test_what_callbacks_show_of_a_strangers_map_is_text(studio: Studio, tmp_path: Path) -> None:
    work, file = (
        SharingCallbacks(studio, answers_of(studio)),
        evil_map(1).save(tmp_path / "evil.safetensors"),
    )
    work.take_in(ANN, [str(file)])
    [row] = studio.library.maps(owner_of(ANN), include_gallery=False)
    studio.library.rename(row.id, owner_of(ANN), EVIL[:120])
    other = studio.library.add_map(owner_of(ANN), evil_map(2), title=EVIL[:120])
    library = LibraryCallbacks(studio, answers_of(studio))
    card, *_ = library.describe(ANN, [row.id])
    check(card)
    shown = UnderstandCallbacks(studio).show(ANN, row.id)
    check(shown[0], shown=False)
    check(shown[5])
    check(shown[6])
    check(UnderstandCallbacks(studio).compare(ANN, row.id, other.id)[1], shown=False)
    check(CompareCallbacks(studio, answers_of(studio)).open(ANN, row.id, other.id)[2])


def test_what_is_said_of_prompts_is_text(studio: Studio, tmp_path: Path) -> None:
    answers = answers_of(studio)
    work, uploads = PromptCallbacks(studio, answers), UploadCallbacks(answers)
    table = [[f"{EVIL} {n}", f"{n} {EVIL}", ""] for n in range(4)]
    for said in (
        work.mark(table)[1],
        uploads.paste(ANN, "text", EVIL, "source", table, "")[1],
        work.save(ANN, "text", EVIL, EVIL, table)[1],
    ):
        check(said, shown=False)
    evil = EVILS[0].replace("/", "")
    for name, text in (
        (f"{evil}.csv", f"source,target\n{EVILS[0]},c\n"),
        (f"{evil}.json", f'["{EVILS[0]}'),
        (f"{evil}2.csv", f"goal {EVILS[0]},target\nAsk {EVILS[0]},Sure\nAsk twice,Yes\n"),
    ):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        shown = uploads.upload(ANN, "text", [str(file)], table, "")._asdict()
        # The others are values of fields and of lists, which the page does not take for HTML.
        for place in ("counts", "report", "question"):
            for said in every_text(shown[place]):
                check(said, shown=False)


def test_a_jobs_message_is_text_and_names_no_folder(studio: Studio) -> None:
    message = f"/data/checkpoints/abc/state.pt is damaged; {EVIL}"
    html = job_cards.progress(dataclasses.replace(JOB, message=message))
    check(html)
    assert "/data" not in html
    assert "…/state.pt is damaged" in html


def test_messages_are_text_on_the_page_and_as_written_for_clients(studio: Studio) -> None:
    for call in (
        lambda: TrainingCallbacks(studio).start(ANN, "text", "x", EVIL, EVIL, [[EVIL, EVIL, ""]],
                                           "", None, None, None),
        lambda: PromptCallbacks(studio, answers_of(studio)).choose(ANN, EVIL),
        lambda: UnderstandCallbacks(studio).show(ANN, EVIL),
        lambda: LibraryCallbacks(studio, answers_of(studio)).rename(BOB, [EVIL], "a", "b"),
    ):  # fmt: skip
        with pytest.raises(gr.Error) as caught:
            call()
        check(str(caught.value.message), shown=False)
        assert "<" not in str(caught.value.message)
    with pytest.raises(gr.Error, match="no prompt set '<b>'"):
        Api(studio, answers_of(studio)).train(ANN, "smollm2", "<b>")


def test_no_component_makes_markup_of_what_the_server_sends(studio: Studio) -> None:
    page = build_page(studio)
    sent = {block for fn in page.fns.values() for block in fn.outputs}
    for component in sent:
        assert not isinstance(component, gr.Markdown | gr.Chatbot | gr.HighlightedText)
        if isinstance(component, gr.Dataframe):
            kinds = component.datatype
            assert set([kinds] if isinstance(kinds, str) else kinds) == {"str"}
    assert any(isinstance(component, gr.Dataframe) for component in sent)
