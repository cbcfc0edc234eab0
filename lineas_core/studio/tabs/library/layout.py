"""Layout of the library tab: the visitor's maps, import, export and sharing."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.app import Studio
from lineas_core.studio.rack.screen import ScreenFields
from lineas_core.studio.tabs.library.callbacks import (
    DeletedOutputs,
    DescribedOutputs,
    LibraryCallbacks,
    TickedOutputs,
)
from lineas_core.studio.tabs.library.formats import FORMATS, OTHERS, OWN
from lineas_core.studio.tabs.library.hub import HubCallbacks
from lineas_core.studio.tabs.library.hub_list import DONE, build_hub_list
from lineas_core.studio.tabs.library.map_list import build_map_list
from lineas_core.studio.tabs.library.sharing import ImportedOutputs, SharingCallbacks

# Sets the page address to the link, so that it can also be copied from the address bar.
TO_ADDRESS = """(code) => {
    const url = new URL(code, window.location.href);
    window.history.replaceState(null, "", url);
    window.parent?.postMessage({ queryString: url.search.slice(1) }, "*");
    return url.toString();
}"""


def build_library_tab(
    studio: Studio,
    answers: Answers,
    key: gr.BrowserState,
    rack: gr.HTML,
    tab: gr.Tab,
    fields: ScreenFields,
) -> None:
    """Lay out the tab and wire it.

    Args:
        studio: the shared state of the app.
        answers: generates the results that the screen shows.
        key: key of the visitor.
        rack: the component of the rack.
        tab: the tab to fill.
        fields: the components of the steering tabs.
    """
    library, sharing = LibraryCallbacks(studio, answers), SharingCallbacks(studio, answers)
    hub = HubCallbacks(studio, answers)
    # The places that deleted maps had on the rack.
    deleted = gr.State({})
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            search = gr.Textbox(
                label="Search", placeholder="title, tag, concept, model or method",
                elem_id="library-search",
            )  # fmt: skip
            maps, chosen = build_map_list("library-maps"), gr.JSON([], visible=False)
        with gr.Column(scale=2, min_width=320):
            card = gr.HTML(elem_id="library-card", min_height=60)
            with gr.Row():
                title = gr.Textbox(label="Title", elem_id="library-title", min_width=140)
                tags = gr.Textbox(
                    label="Tags", placeholder="bold, night", elem_id="library-tags",
                    min_width=140,
                )  # fmt: skip
            with gr.Row():
                rename = gr.Button(
                    "Save title and tags", size="sm", elem_id="library-rename", min_width=150
                )
                delete = gr.Button(
                    "Delete", size="sm", variant="stop", elem_id="library-delete", min_width=80
                )
            with gr.Row(elem_id="library-exports"):
                format = gr.Dropdown(
                    list(FORMATS.items()), value=OWN, label="Export as", elem_id="library-format",
                    min_width=180, scale=3,
                )  # fmt: skip
                export = gr.Button("Export", size="sm", elem_id="library-export", min_width=80)
            exported = gr.File(label="Map files", visible=False, elem_id="library-exported")
            with gr.Accordion("Import", open=False, elem_id="library-import"):
                files = gr.File(
                    label="Maps, bundles, vectors",
                    file_count="multiple",
                    file_types=[".safetensors", ".zip", *OTHERS],
                    elem_id="library-files",
                    height=120,
                )
                choices = studio.model_choices("text")
                model = gr.Dropdown(
                    choices, value=choices[0][1], label="Vectors are for", allow_custom_value=True,
                    info="The model that they were learned on", elem_id="library-model",
                )  # fmt: skip
            with gr.Accordion("What is on the screen", open=False, elem_id="library-screen"):
                with gr.Row():
                    code = gr.Button("Python", size="sm", elem_id="snippet-button", min_width=80)
                    bundle = gr.Button("Bundle", size="sm", elem_id="bundle-button", min_width=80)
                    link = gr.Button("Link", size="sm", elem_id="link-button", min_width=80)
                python = gr.Code(
                    language="python", label="Python", elem_id="snippet", lines=6, wrap_lines=True
                )
                map_files = gr.File(
                    label="Its maps: keep them beside the script", visible=False,
                    elem_id="snippet-maps",
                )  # fmt: skip
                zipped = gr.File(label="Bundle", visible=False, elem_id="bundle")
                address = gr.Textbox(label="Link", buttons=["copy"], elem_id="link")
            with gr.Accordion("Hugging Face Hub", open=False, elem_id="library-hub"):
                with gr.Row(elem_id="hub-search-row"):
                    model_on_hub = gr.Dropdown(
                        [("Any model", ""), *choices, *studio.model_choices("image")],
                        value="",
                        label="Maps for",
                        allow_custom_value=True,
                        elem_id="hub-model",
                        min_width=180,
                        scale=3,
                    )
                    find = gr.Button("Search", size="sm", elem_id="hub-search", min_width=80)
                found = build_hub_list("hub-found")
                repo = gr.Textbox(label="Repository", placeholder="user/name", elem_id="hub-repo")
                token = gr.Textbox(
                    label="Your token",
                    type="password",
                    info="For private repositories and uploads; not kept",
                    elem_id="hub-token",
                )
                # Login is available only on a Space whose card enables OAuth.
                if "OAUTH_CLIENT_ID" in studio.environment:
                    gr.LoginButton(size="sm")
                with gr.Row():
                    push = gr.Button("Push the chosen map", size="sm", elem_id="hub-push")
                    install = gr.Button("Install", size="sm", elem_id="hub-install")
            said = gr.HTML(elem_id="library-said")
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    busy: dict[str, Any] = {"api_visibility": "private"}
    again = ([key, search, chosen], [maps, chosen])
    described = DescribedOutputs(card=card, title=title, tags=tags)
    newly_ticked = TickedOutputs(chosen=chosen, card=card, title=title, tags=tags)
    newly_deleted = DeletedOutputs(deleted=deleted, maps=maps, rack=rack)
    imported = ImportedOutputs(said, rack, *fields)
    lists = gr.on(
        [tab.select, rack.select, search.change],
        library.listed,
        *again,
        trigger_mode="always_last",
        **quiet,
    )
    lists.then(library.glances, key, maps, concurrency_id="glances", trigger_mode="once", **quiet)
    maps.input(library.ticked, [key, maps], [*newly_ticked], **quiet)
    rename.click(library.rename, [key, chosen, title, tags], rack, **quiet).success(
        library.listed, *again, **quiet
    ).then(library.describe, [key, chosen], [*described], **quiet)
    one = "(key, list, ...rest) => [key, [list.id], ...rest]"
    maps.select(library.add, [key, maps, rack], rack, js=one, **quiet)
    ticked, pressed = [key, chosen, rack, deleted], [key, maps, rack, deleted]
    for event, asked, js in ((delete.click, ticked, None), (maps.delete, pressed, one)):
        event(library.delete, asked, [*newly_deleted], js=js, **quiet).success(
            library.listed, *again, **quiet
        )
    maps.undo(library.undo, pressed, [maps, rack], js=one, **quiet).success(
        library.listed, *again, **quiet
    )
    export.click(sharing.export, [key, chosen, format], exported, **busy)
    files.upload(sharing.take_in, [key, files, model], [*imported], **busy).success(
        library.listed, *again, **quiet
    )
    code.click(sharing.code, [key, rack, *fields], [python, map_files], **quiet)
    bundle.click(sharing.bundle, [key, rack, *fields], zipped, **busy)
    link.click(sharing.link, [key, rack, *fields], address, **quiet).success(
        None, address, address, js=TO_ADDRESS
    )
    find.click(hub.search, [key, model_on_hub, token], found, **busy)
    push.click(hub.push, [key, chosen, repo, token], said, **busy)
    this = "(key, list, ...rest) => [key, list.repo, ...rest]"
    for event, asked, js in (
        (install.click, [key, repo, token], None),
        (found.select, [key, found, token], this),
    ):
        installed = event(hub.install, asked, [said, rack], js=js, **busy)
        # Gradio's page runs what `then` adds after a success only.
        for end in (installed.success, installed.failure):
            end(None, None, found, js=DONE)
        installed.success(library.listed, *again, **quiet)
