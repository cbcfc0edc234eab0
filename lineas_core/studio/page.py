"""The page: what is where, and what it shows when it opens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from lineas_core.errors import LineasError
from lineas_core.studio.api import add_api
from lineas_core.studio.callbacks import KEPT_FOR, Studio, with_messages
from lineas_core.studio.compare_tab import build_compare_tab
from lineas_core.studio.guard import Guard
from lineas_core.studio.image_tab import SteerTab, build_image_tab
from lineas_core.studio.library_tab import build_library_tab
from lineas_core.studio.limits import MIB
from lineas_core.studio.messages import without_paths
from lineas_core.studio.prompt_work import PromptWork
from lineas_core.studio.rack import RackState, Slot, build_rack, patch
from lineas_core.studio.scenes import Screen
from lineas_core.studio.settings import Settings
from lineas_core.studio.store import MapRow
from lineas_core.studio.text_tab import build_text_tab
from lineas_core.studio.train_tab import FIRST, TrainTab, build_train_tab
from lineas_core.studio.understand_tab import build_understand_tab
from lineas_core.studio.visitors import new_key, owner_of

HERE = Path(__file__).parent
STYLE, SCRIPTS = HERE / "style.css", ("keys.js", "tour.js", "lightbox.js")
THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
HEAD = """<header class="ls-head"><h1>LinEAS Studio</h1>
<p>Learn to steer a generative model from a few prompts, then move a slider.</p>
<button type="button" id="tour-button" class="ls-tour-button">Take the tour</button></header>"""
FIRST_MAPS = 3
# Seconds between two looks for uploads and downloads that are to be removed.
CLEARED_EVERY = 600


def build_page(studio: Studio) -> gr.Blocks:
    """Lay out the page and wire it to `studio`."""
    with gr.Blocks(
        title="LinEAS Studio", analytics_enabled=False, delete_cache=(CLEARED_EVERY, KEPT_FOR)
    ) as page:
        key = gr.BrowserState("", storage_key="lineas-visitor", secret=studio.store.secret())
        # First: names of functions belong to who comes first, and the page has its own `cancel`.
        add_api(studio)
        job = gr.State("")
        gr.HTML(HEAD, apply_default_css=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300, elem_id="rack-column"):
                gr.Markdown("## Maps")
                rack = build_rack("rack")
            with gr.Column(scale=5, min_width=320), gr.Tabs() as tabs:
                with gr.Tab("Images", id="image") as images_tab:
                    images = build_image_tab(studio, key, rack, images_tab)
                with gr.Tab("Text", id="text") as texts_tab:
                    texts = build_text_tab(studio, key, rack, texts_tab)
                with gr.Tab("Train", id="train"):
                    train = build_train_tab(studio, key, rack)
                with gr.Tab("Compare", id="compare") as compare_tab:
                    build_compare_tab(studio, key, rack, compare_tab)
                with gr.Tab("Understand", id="understand") as understand_tab:
                    build_understand_tab(studio, key, rack, understand_tab)
                with gr.Tab("Library", id="library") as library_tab:
                    fields = [images.model, images.prompts, images.seed, texts.model,
                              texts.prompts, texts.seed, texts.asked[-1]]  # fmt: skip
                    build_library_tab(studio, key, rack, library_tab, fields)
        _wire_opening(page, Opening(studio), key, job, rack, tabs, images, texts, train, fields)
    settings = studio.settings
    page.queue(max_size=settings.most_waiting, default_concurrency_limit=settings.concurrency)
    return page


class Opening:
    """What a page shows when it opens.

    Args:
        studio: the state.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._prompts = PromptWork(studio)

    @with_messages
    def arrive(self, key: str, request: gr.Request) -> tuple[Any, ...]:
        """The visitor's key, a link's job and scene, the rack, and the prompt sets."""
        try:
            owner = owner_of(key)
        except LineasError:
            key = new_key()
            owner = owner_of(key)
        while self._studio.mended:
            note = escape(without_paths(self._studio.mended.pop(0)), quote=False)
            gr.Warning(note, duration=None)
        asked = dict(request.query_params)
        rows = self._studio.library.maps(owner)
        choices = self._prompts.choices(owner, "image")
        tab, fields, state = gr.skip(), (gr.skip(),) * 7, first_rack(rows)
        if code := asked.get("scene"):
            try:
                shown = Screen.from_link(code)
            except LineasError as error:
                gr.Warning(escape(str(error), quote=False))
            else:
                state, tab = shown.rack, gr.Tabs(selected=shown.rack.modality)
                fields = (
                    shown.image_model, shown.image_prompts, shown.image_seed, shown.text_model,
                    shown.text_prompt, shown.text_seed, shown.tokens,
                )  # fmt: skip
        elif asked.get("job"):
            tab = gr.Tabs(selected="train")
        return (
            key,
            asked.get("job", ""),
            patch(rows=rows, state=state),
            tab,
            gr.update(choices=choices, value=FIRST["image"]),
            *fields,
        )


def first_rack(rows: list[MapRow]) -> RackState:
    """The first maps of each kind, of which the very first is on."""
    slots: list[Slot] = []
    for modality in ("image", "text"):
        mine = [row for row in rows if row.modality == modality][:FIRST_MAPS]
        slots += [
            Slot(row.id, n == 0, 1.0 if row.recommended is None else row.recommended)
            for n, row in enumerate(mine)
        ]
    return RackState(tuple(slots))


def _wire_opening(
    page: gr.Blocks,
    opening: Opening,
    key: gr.BrowserState,
    job: gr.State,
    rack: gr.HTML,
    tabs: gr.Tabs,
    images: SteerTab,
    texts: SteerTab,
    train: TrainTab,
    fields: Sequence[Any],
) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    arrived = page.load(opening.arrive, key, [key, job, rack, tabs, train.chosen, *fields], **quiet)
    arrived.then(images.show, images.asked, images.outputs, concurrency_id="sliders", **quiet)
    arrived.then(train.work.open, [key, job], train.outputs, **quiet)
    for tab, modality in ((images, "image"), (texts, "text")):
        tab.tab.select(
            None,
            None,
            rack,
            js=f'() => ({{ from: "server", state: {{ modality: "{modality}" }} }})',
        )
        tab.model.change(
            None, tab.model, rack,
            js=f'(name) => ({{ from: "server", models: {{ {modality}: name }} }})',
        )  # fmt: skip
    for script in SCRIPTS:
        page.load(None, None, None, js=(HERE / script).read_text(encoding="utf-8"))


def launch_options(studio: Studio) -> dict[str, Any]:
    """How the page is served: what it looks like, and what the server gives to strangers."""
    home, settings = studio.settings.home, studio.settings
    kept = (
        "studio.db",
        "studio.db-wal",
        "studio.db-shm",
        "maps",
        "checkpoints",
        "frames",
        "models",
        "backups",
        "studio.secret",
    )
    return {
        "theme": THEME,
        "css_paths": [STYLE],
        "ssr_mode": False,
        "mcp_server": True,
        "footer_links": ["api", "settings"],
        # Nothing but uploads and downloads, which lie in Gradio's own folder.
        "allowed_paths": [],
        "blocked_paths": [str(home / name) for name in kept],
        # Every call of a client is a session of its own, which Gradio keeps about 0.2 MiB of.
        "state_session_capacity": settings.most_sessions,
        "max_file_size": settings.most_upload * MIB,
        # Neither figures about visitors for everyone, nor what they typed kept in their browser.
        "enable_monitoring": False,
        "run_history": False,
        "app_kwargs": {
            "middleware": [
                Middleware(Guard, limits=studio.limits, most_upload=settings.most_upload)
            ]
        },
    }


def launch(home: Path | None = None, port: int | None = None) -> None:
    """Build the page and serve it until stopped; the port is Gradio's choice by default."""
    studio = Studio(Settings.from_environment(os.environ, home))
    try:
        # By default all Gradio apps of a machine share one folder, and serve each other's files.
        os.environ.setdefault("GRADIO_TEMP_DIR", studio.uploads.name)
        # Figures about the latest calls, which are summed up after each and shown to nobody.
        os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
        build_page(studio).launch(server_port=port, **launch_options(studio))
    finally:
        studio.close()
