"""The page: what is where, and which callback each control calls."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from lineas_core.home import lineas_home
from lineas_core.models.catalog import catalog
from lineas_core.prompts import PromptSet, shipped_prompt_sets
from lineas_core.studio.callbacks import Studio
from lineas_core.studio.image_tab import build_image_tab
from lineas_core.studio.text_tab import build_text_tab

STYLE = Path(__file__).with_name("style.css")
THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)


def build_page(studio: Studio) -> gr.Blocks:
    """Lay out the page and wire it to `studio`."""
    sets = {name: PromptSet.load(name) for name in shipped_prompt_sets()}
    with gr.Blocks(title="LinEAS Studio", analytics_enabled=False) as page:
        gr.HTML(
            "<header class='ls-head'><h1>LinEAS Studio</h1><p>Learn to steer a generative model "
            "from a few prompts, then move a slider.</p></header>"
        )
        with gr.Tab("Text"):
            texts = {name: s for name, s in sets.items() if s.modality == "text"}
            build_text_tab(page, studio, _models("language"), _first("football", texts))
        with gr.Tab("Images"):
            images = {name: s for name, s in sets.items() if s.modality == "image"}
            build_image_tab(page, studio, _models("diffusion"), _first("emoji-pixel-art", images))
    return page


def _models(kind: str) -> list[tuple[str, str]]:
    return [(entry.title, entry.id) for entry in catalog().values() if entry.kind == kind]


def _first(name: str, sets: dict[str, PromptSet]) -> dict[str, PromptSet]:
    return {name: sets[name], **sets}


def launch(home: Path | None = None, port: int | None = None) -> None:
    """Build the page and serve it until stopped; the port is Gradio's choice by default."""
    studio = Studio(home or lineas_home())
    try:
        build_page(studio).launch(
            server_port=port,
            theme=THEME,
            css_paths=[STYLE],
            ssr_mode=False,
            footer_links=["api", "settings"],
        )
    finally:
        studio.close()
