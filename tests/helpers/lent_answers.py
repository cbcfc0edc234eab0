"""All that a Studio answers, as JSON: from this process, or under the real `spaces` package.

Calls of torch run on one thread here: sums of several threads differ in their last bits from those
of one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL.Image import Image

import lineas_core as lc
from lineas_core.metrics import clip
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import owner_of
from lineas_core.studio.app import Studio
from lineas_core.studio.jobs import run
from lineas_core.studio.rack.rack import RackState
from lineas_core.studio.tabs.images.callbacks import ImageCallbacks
from lineas_core.studio.tabs.texts.callbacks import TextCallbacks
from lineas_core.studio.tabs.train.training import TrainingCallbacks
from lineas_core.studio.tabs.train.writing import WritingCallbacks
from tests.helpers.studio import ANN, SITE, add_map, answers_of, rack

WORDS = {"model.layers.1.post_attention_layernorm": 16}
STEPS = 5
CHANGES = {"steps": STEPS, "rate": 0.005, "batch_size": 4, "holdout": 0.25}


def everything(studio: Studio, painter: str, writer: str, prompts: lc.PromptSet) -> dict[str, Any]:
    """Answers of each kind to the same requests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "pictures": _pictures(studio, painter),
            "texts": _texts(studio, writer),
            "streamed": _streamed(studio, writer),
            "drafts": _message(
                lambda: list(
                    WritingCallbacks(studio, answers_of(studio)).write(
                        ANN, "text", "volcanoes", 0, writer
                    )
                )
            ),
            "mistake": _message(
                lambda: ImageCallbacks(studio, answers_of(studio)).look(
                    ANN, writer, rack(), "ab", 3
                )
            ),
            "in_memory": [studio.model_cache.has(name) for name in (painter, writer)],
            "map of pictures": _trained(studio, painter, "image", prompts),
            "map of texts": _trained(studio, writer, "text", prompts),
        }
    finally:
        torch.set_num_threads(threads)


def _pictures(studio: Studio, painter: str) -> list[Any]:
    maps = [
        add_map(studio, painter, {SITE: 16}, seed, concept=concept)
        for seed, concept in ((0, "ink"), (1, "gold"))
    ]
    on = rack((maps[0], 0.7), (maps[1], 0.4))
    pictures = ImageCallbacks(studio, answers_of(studio))
    shown, slider, _ = pictures.look(ANN, painter, on, "ab\nba", 3)
    return [
        _without_ids(shown),
        [_digest(image) for image in slider],
        list(pictures.effects(ANN, painter, on, "ab\nba")["effects"].values()),
        _without_ids(pictures.grid(ANN, painter, on, "ab", 3)[0]),
        _without_ids(pictures.crossed(ANN, painter, on, "ab", 3)[0]),
    ]


def _texts(studio: Studio, writer: str) -> list[Any]:
    on = rack((add_map(studio, writer, WORDS, 2, concept="football"), 0.8))
    every = answers_of(studio)
    texts = TextCallbacks(studio, every)
    mix = studio.mix(owner_of(ANN), RackState.from_page(on), writer)
    return [
        _without_ids(list(texts.compare(ANN, writer, on, "ab ab", 3, 8))[-1]),
        _without_ids(texts.sweep(ANN, writer, on, "ab ab", 3, 8, 2)[0]),
        list(every.texts.whole_pair(mix, writer, "ab ab", 3, 8)),
        every.texts.complete(mix, writer, "ab ab", 3, 8),
    ]


def _streamed(studio: Studio, writer: str) -> bool:
    """Whether a text comes in parts; the reader leaves after the first."""
    looks = TextCallbacks(studio, answers_of(studio)).compare(ANN, writer, rack(), "ab ab", 3, 100)
    first = next(looks)
    looks.close()
    return "ls-caret" in first


def _trained(studio: Studio, model: str, modality: Any, prompts: lc.PromptSet) -> list[Any]:
    chosen = dataclasses.replace(prompts, modality=modality)
    job = studio.train(owner_of(ANN), model, chosen, CHANGES, preview_prompt="ab")
    page = TrainingCallbacks(studio)
    while not job.finished:
        page.poll(ANN, {"job": job.id, "seq": -1, "running": True})
        time.sleep(0.1)
        found = studio.jobs.get(job.id, owner_of(ANN))
        assert found is not None
        job = found
    assert job.status == "done", job.message
    smap = studio.library.map(job.map_id, owner_of(ANN))
    # A file also says when it was made.
    undated = lc.SteeringMap(smap.sites, dataclasses.replace(smap.info, created=""))
    assert job.health is not None
    return [undated.digest(), job.losses, job.supports, dataclasses.asdict(job.health)]


def _message(call: Any) -> str:
    try:
        call()
    except gr.Error as error:
        return str(error.message)
    return ""


def _without_ids(html: str) -> str:
    """What is shown, without the ids of the maps, of which each library makes its own."""
    return re.sub(r"\b[0-9a-f]{32}\b", "ID", html)


def _digest(image: Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _answer(home: Path, painter: str, scorer: str, writer: str, prompts: str, to: Path) -> None:
    run.SECONDS_PER_SLICE = 0.0
    clip.SCORERS["clip-emoji"] = Path(scorer)
    studio = Studio(Settings(home=home))
    try:
        found = everything(studio, painter, writer, lc.PromptSet(**json.loads(prompts)))
    finally:
        studio.close()
    to.write_text(json.dumps(found))


if __name__ == "__main__":
    home, painter, scorer, writer, prompts, to = sys.argv[1:]
    # As in the app: the package emulates a GPU on the thread that imports it, and on no other.
    thread = threading.Thread(
        target=_answer, args=(Path(home), painter, scorer, writer, prompts, Path(to))
    )
    thread.start()
    thread.join()
