"""The page: what is where, and what it shows when it opens."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from lineas_core.errors import ConfigError, LineasError
from lineas_core.studio.access.limits import MIB
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.access.visitors import new_key, owner_of
from lineas_core.studio.app import KEPT_FOR, Studio, with_messages
from lineas_core.studio.components.wiring import STORED, field, opened
from lineas_core.studio.rack.rack import RackState, Slot, build_rack, patch
from lineas_core.studio.rack.screen import TABS, Screen
from lineas_core.studio.storage.store import MapRow
from lineas_core.studio.tabs.compare.layout import build_compare_tab
from lineas_core.studio.tabs.images.layout import build_image_tab
from lineas_core.studio.tabs.library.layout import build_library_tab
from lineas_core.studio.tabs.texts.layout import build_text_tab
from lineas_core.studio.tabs.train.layout import FIRST, build_train_tab
from lineas_core.studio.tabs.train.prompts import PromptWork
from lineas_core.studio.tabs.understand import build_understand_tab
from lineas_core.studio.web.api import add_api
from lineas_core.studio.web.middleware import Guard
from lineas_core.system.devices import describe_device
from lineas_core.system.paths import packaged

STYLE, SCRIPTS = "style.css", ("keys.js", "tour.js", "lightbox.js")
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
        job, stored = gr.State(""), gr.Textbox(visible=False)
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
                with gr.Tab("Train", id="train") as train_tab:
                    train = build_train_tab(studio, key, rack)
                with gr.Tab("Compare", id="compare") as compare_tab:
                    build_compare_tab(studio, key, rack, compare_tab)
                with gr.Tab("Understand", id="understand") as understand_tab:
                    build_understand_tab(studio, key, rack, understand_tab)
                with gr.Tab("Library", id="library") as library_tab:
                    fields = [images.model, images.prompts, images.seed, texts.model,
                              texts.prompts, texts.seed, texts.asked[-1]]  # fmt: skip
                    build_library_tab(studio, key, rack, library_tab, fields)
        begun = replace(Screen(RackState(), *(part.value for part in fields)), tab="image")
        opening = Opening(studio, begun)
        arrived = page.load(
            opening.arrive, [key, stored], [key, job, rack, tabs, train.chosen, *fields],
            js=STORED, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        arrived.then(train.work.open, [key, job], train.outputs, show_progress="hidden",
                     api_visibility="private")  # fmt: skip
        for script in SCRIPTS:
            page.load(
                None, None, None, js=(packaged("studio/web") / script).read_text(encoding="utf-8")
            )
        opened_tabs = (
            images_tab, texts_tab, train_tab, compare_tab, understand_tab, library_tab,
        )  # fmt: skip
        _wire_scene(dict(zip(TABS, opened_tabs, strict=True)), fields)
    settings = studio.settings
    page.queue(max_size=settings.most_waiting, default_concurrency_limit=settings.concurrency)
    return page


class Opening:
    """What a page shows when it opens.

    Args:
        studio: the state.
        begun: what the fields hold by default.
    """

    def __init__(self, studio: Studio, begun: Screen) -> None:
        self._studio, self._begun = studio, begun
        self._prompts = PromptWork(studio)

    @with_messages
    def arrive(self, key: str, stored: str, request: gr.Request) -> tuple[Any, ...]:
        """The visitor's key, the job and scene of a link or of the last time, and prompt sets.

        Args:
            key: the visitor's.
            stored: what the browser kept, as `wiring.STORED` gives it.
            request: with the address.
        """
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
        shown = self._shown(asked, stored, rows)
        return (
            key,
            asked.get("job", ""),
            patch(
                rows=rows,
                state=shown.rack,
                models={"image": shown.image_model, "text": shown.text_model},
                fields=shown.fields,
                tab=shown.tab,
            ),
            gr.Tabs(selected=shown.tab),
            gr.update(choices=choices, value=FIRST["image"]),
            *shown.values,
        )

    def _shown(self, asked: Mapping[str, str], stored: str, rows: list[MapRow]) -> Screen:
        """What comes on the screen: this page's own before a reload, a link's, or the last."""
        first = replace(self._begun, rack=first_rack(rows))
        kept, again = _kept(stored)
        if code := "" if kept and again else asked.get("scene", ""):
            try:
                found, missing = Screen.from_link(code).settled(rows)
            except LineasError as error:
                gr.Warning(escape(str(error), quote=False))
                return first
            if missing:
                gr.Warning(_of_a_link(missing), duration=None)
            return replace(found, tab=found.rack.modality)
        if kept is not None:
            first, missing = kept.settled(rows)
            if missing:
                gr.Info(_of_the_last_time(missing))
            first = replace(first, tab=first.tab or first.rack.modality)
        return replace(first, tab="train") if asked.get("job") and not again else first


def _kept(stored: str) -> tuple[Screen | None, bool]:
    """The screen that the browser kept, if there is one, and whether the page is loaded again."""
    try:
        found = json.loads(stored)
        return Screen.from_json(found["session"]), found["again"] is True
    except (LineasError, KeyError, TypeError, ValueError, RecursionError):
        return None, False


def _listed(titles: Sequence[str]) -> str:
    return escape(" and ".join(f"“{title:.80}”" for title in titles), quote=False)


def _of_a_link(missing: Sequence[str]) -> str:
    return (
        f"You do not have {_listed(missing)}, which this link uses: it is of the person who made "
        "the link, or was deleted. Ask for its map file or a bundle (Library, Export or What is "
        "on the screen), take it in at Library, Import, and open the link again. The rest is shown."
    )


def _of_the_last_time(missing: Sequence[str]) -> str:
    return (
        f"{_listed(missing)} is no longer in the library, and was taken off the rack."
        if len(missing) == 1
        else f"{_listed(missing)} are no longer in the library, and were taken off the rack."
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


def _wire_scene(tabs: Mapping[str, gr.Tab], fields: Sequence[Any]) -> None:
    """Tell the page's scene of every tab that is opened, and of every field that changes."""
    for name, tab in tabs.items():
        tab.select(None, None, None, js=opened(name))
    places = [
        ("image", "model"), ("image", "prompts"), ("image", "seed"), ("text", "model"),
        ("text", "prompts"), ("text", "seed"), ("text", "tokens"),
    ]  # fmt: skip
    for part, (kind, name) in zip(fields, places, strict=True):
        part.change(None, part, None, js=field(kind, name))


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
        "css_paths": [packaged("studio/web") / STYLE],
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


def launch(
    home: Path | None = None,
    port: int | None = None,
    *,
    host: str | None = None,
    open_browser: bool = False,
) -> None:
    """Build the page and serve it until stopped.

    Args:
        home: folder of what is made; LINEAS_HOME by default.
        port: GRADIO_SERVER_PORT by default, or else the first free one from 7860.
        host: address to serve on; GRADIO_SERVER_NAME by default, or else this machine only.
        open_browser: whether to open the page in the browser.

    Raises:
        ConfigError: the address cannot be served on.
    """
    print(f"Device: {describe_device()}", flush=True)
    studio = Studio(Settings.from_environment(os.environ, home))
    try:
        # By default all Gradio apps of a machine share one folder, and serve each other's files.
        os.environ.setdefault("GRADIO_TEMP_DIR", studio.uploads.name)
        # Figures about the latest calls, which are summed up after each and shown to nobody.
        os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
        studio.preparation.start()
        page = build_page(studio)
        try:
            page.launch(
                server_name=host, server_port=port, inbrowser=open_browser, **launch_options(studio)
            )
        except OSError as error:
            address = f"host is {host or 'by default'} and port {port or 'by default'}"
            raise ConfigError(
                f"{address}, and nothing can be served there: it is in use, or not an address of "
                "this machine. Choose others."
            ) from error
    finally:
        studio.close()
