"""Build the page from its tabs, and serve it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_space
from starlette.middleware import Middleware

from lineas_core.errors import ConfigError
from lineas_core.serving.hosts import Hosts
from lineas_core.serving.routes import Routes
from lineas_core.studio.access.ledger import SWEPT_EVERY
from lineas_core.studio.access.limits import MIB
from lineas_core.studio.access.settings import Settings
from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.components.wiring import STORED, field, opened
from lineas_core.studio.jobs.device.gpu import lends_gpu
from lineas_core.studio.jobs.ending import end_forked, leaving_traces, stopping_in_order
from lineas_core.studio.rack.rack import RackState, build_rack
from lineas_core.studio.rack.screen import TABS, Screen, ScreenFields
from lineas_core.studio.storage.scratch import KEPT_FOR
from lineas_core.studio.tabs.compare.layout import build_compare_tab
from lineas_core.studio.tabs.images.layout import build_image_tab
from lineas_core.studio.tabs.library.layout import build_library_tab
from lineas_core.studio.tabs.texts.layout import build_text_tab
from lineas_core.studio.tabs.train.layout import build_train_tab
from lineas_core.studio.tabs.understand.layout import build_understand_tab
from lineas_core.studio.web.api import add_api
from lineas_core.studio.web.middleware import Guard
from lineas_core.studio.web.openai_host import StudioHost
from lineas_core.studio.web.opening import ArrivedOutputs, Opening
from lineas_core.studio.web.uploads import Uploads
from lineas_core.studio.web.waiting import Sessions, share_queue
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
# Where the proxies are that a Space is reached through. uvicorn believes what these networks say of
# a client's address, from the last one of `X-Forwarded-For` backwards.
PRIVATE_NETWORKS = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"


def build_page(studio: Studio) -> gr.Blocks:
    """Lay out the page and wire it to `studio`."""
    answers = Answers(studio.inference, studio.library, guarded=studio.settings.demo)
    with gr.Blocks(
        title="LinEAS Studio", analytics_enabled=False, delete_cache=(SWEPT_EVERY, KEPT_FOR)
    ) as page:
        key = gr.BrowserState("", storage_key="lineas-visitor", secret=studio.store.secret())
        # Add the API first: the first endpoint gets the name, and the page also has a `cancel`.
        add_api(studio, answers)
        job, stored = gr.State(""), gr.Textbox(visible=False)
        with gr.Row(elem_classes="ls-top"):
            gr.HTML(HEAD, apply_default_css=False)
            if get_space():
                gr.DuplicateButton("Duplicate this Space", elem_id="duplicate", min_width=160)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300, elem_id="rack-column"):
                gr.Markdown("## Maps")
                rack = build_rack("rack")
            with gr.Column(scale=5, min_width=320), gr.Tabs() as tabs:
                with gr.Tab("Images", id="image") as images_tab:
                    images = build_image_tab(studio, answers, key, rack, images_tab)
                with gr.Tab("Text", id="text") as texts_tab:
                    texts = build_text_tab(studio, answers, key, rack, texts_tab)
                with gr.Tab("Train", id="train") as train_tab:
                    train = build_train_tab(studio, answers, key, rack)
                with gr.Tab("Compare", id="compare") as compare_tab:
                    build_compare_tab(studio, answers, key, rack, compare_tab)
                with gr.Tab("Understand", id="understand") as understand_tab:
                    build_understand_tab(studio, key, rack, understand_tab)
                with gr.Tab("Library", id="library") as library_tab:
                    fields = ScreenFields(
                        image_model=images.model,
                        image_prompts=images.prompts,
                        image_seed=images.seed,
                        text_model=texts.model,
                        text_prompt=texts.prompts,
                        text_seed=texts.seed,
                        tokens=texts.asked[-1],
                    )
                    build_library_tab(studio, answers, key, rack, library_tab, fields)
        begun = replace(Screen(RackState(), *(part.value for part in fields)), tab="image")
        opening = Opening(studio, answers, begun)
        arrived = page.load(
            opening.arrive, [key, stored],
            [*ArrivedOutputs(key, job, rack, tabs, train.chosen, *fields)],
            js=STORED, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        arrived.then(train.callbacks.open, [key, job], [*train.outputs], show_progress="hidden",
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
    page.queue(
        max_size=settings.max_waiting,
        default_concurrency_limit=settings.concurrency,
        api_open=False,
    )
    share_queue(page)
    return page


def _wire_scene(tabs: Mapping[str, gr.Tab], fields: ScreenFields) -> None:
    """Report every opened tab and every changed field to the page's scene script."""
    for name, tab in tabs.items():
        tab.select(None, None, None, js=opened(name))
    for part, kind, name in (
        (fields.image_model, "image", "model"),
        (fields.image_prompts, "image", "prompts"),
        (fields.image_seed, "image", "seed"),
        (fields.text_model, "text", "model"),
        (fields.text_prompt, "text", "prompts"),
        (fields.text_seed, "text", "seed"),
        (fields.tokens, "text", "tokens"),
    ):
        part.change(None, part, None, js=field(kind, name))


def launch_options(studio: Studio, host: str | None = None) -> dict[str, Any]:
    """Arguments for `Blocks.launch`: appearance, served files, limits and middleware.

    Args:
        studio: the app's shared state.
        host: the name or address that it is served on, if one was given.

    Raises:
        ConfigError: LINEAS_HOSTS has what is not the name of a host.
    """
    home, settings, environment = studio.settings.home, studio.settings, studio.environment
    served = host or environment.get("GRADIO_SERVER_NAME", "")
    hosts = Hosts(
        [served.strip("[]"), *environment.get("SPACE_HOST", "").split(","), *settings.hosts]
    )
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
        # Serve only uploads and downloads, which are in Gradio's own temporary folder.
        "allowed_paths": [],
        "blocked_paths": [
            *(str(home / name) for name in kept),
            *([str(settings.bucket)] if settings.bucket else []),
        ],
        # Gradio keeps about 0.2 MiB for each.
        "state_session_capacity": settings.max_sessions,
        "max_file_size": settings.max_upload * MIB,
        # Do not publish usage statistics, nor keep what visitors typed in their browser.
        "enable_monitoring": False,
        "run_history": False,
        # Servers of their own for files and uploads, which no middleware stands before.
        "num_workers": 0,
        # Gradio would end the app if the page took more than 3 s now, as on a slow machine, or at a
        # restart for which visitors wait. That the server answers it has found out before.
        "_frontend": False,
        "app_kwargs": {
            "middleware": [
                Middleware(
                    Guard,
                    uploads=Uploads(studio.ledger, studio.scratch),
                    max_upload=settings.max_upload,
                    hosts=hosts,
                ),
            ],
            "routes": Routes(StudioHost(studio)).listed(),
            "lifespan": _with_sessions,
        },
    }


@asynccontextmanager
async def _with_sessions(app: Any) -> AsyncIterator[None]:
    """Keep the state of pages as `Sessions` does, while the server runs."""
    app.state_holder = Sessions(app.get_blocks())
    yield


def launch(
    home: Path | None = None,
    port: int | None = None,
    *,
    host: str | None = None,
    open_browser: bool = False,
) -> None:
    """Build the page and serve it until stopped.

    Args:
        home: folder for the database, maps and checkpoints; LINEAS_HOME by default.
        port: GRADIO_SERVER_PORT by default, or else the first free port from 7860.
        host: address to serve on; GRADIO_SERVER_NAME by default, or else this machine only.
        open_browser: whether to open the page in the browser.

    Raises:
        ConfigError: the server cannot listen on the address.
    """
    print(f"Device: {describe_device()}", flush=True)
    with ExitStack() as stack:
        # Being stopped before the page is served is as good an end as after.
        stack.enter_context(suppress(KeyboardInterrupt))
        stopping = stack.enter_context(stopping_in_order())
        studio = Studio(Settings.from_environment(os.environ, home))
        stack.callback(studio.close)
        stopping.append(studio.jobs.stop)
        stack.callback(end_forked)
        stack.enter_context(leaving_traces(studio.settings.home))
        if lends_gpu(studio.environment):
            # Made now, so that it lies elsewhere: multiprocessing removes it at the very end.
            get_temp_dir()
        stack.enter_context(studio.scratch.for_all_temporary_files())
        # By default, all Gradio apps on a machine share one folder and serve each other's files.
        os.environ["GRADIO_TEMP_DIR"] = str(studio.scratch.uploads)
        # Gradio summarises this many latest calls after each call, though nothing shows the result.
        os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
        if "SPACE_HOST" in studio.environment:
            os.environ.setdefault("FORWARDED_ALLOW_IPS", PRIVATE_NETWORKS)
        studio.preparation.start()
        page = build_page(studio)
        try:
            page.launch(
                server_name=host,
                server_port=port,
                inbrowser=open_browser,
                **launch_options(studio, host),
            )
        except OSError as error:
            address = f"host is {host or 'by default'} and port {port or 'by default'}"
            raise ConfigError(
                f"{address}, and nothing can be served there: it is in use, or not an address of "
                "this machine. Choose others."
            ) from error
