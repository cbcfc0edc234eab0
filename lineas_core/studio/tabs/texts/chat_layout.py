"""The chat of the text tab: what is where, and which callback each control calls."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lineas_core.studio.app import Studio
from lineas_core.studio.tabs.texts.chat import Chats
from lineas_core.studio.views import completions


def build_chat(
    studio: Studio,
    key: gr.BrowserState,
    rack: gr.HTML,
    model: gr.Dropdown,
    seed: gr.Number,
    tokens: gr.Number,
) -> gr.Column:
    """Lay out the chat, and wire it; the column is hidden until chat mode is chosen."""
    chats = Chats(studio)
    kept = gr.State([])
    with gr.Column(visible=False, elem_id="chat") as column:
        shown = gr.HTML(completions.chat(()), elem_id="chat-turns", min_height=180)
        question = gr.Textbox(
            "",
            label="Your question",
            placeholder="What shall we do on Saturday?",
            lines=1,
            max_lines=4,
            elem_id="question",
            submit_btn="Ask",
        )
        with gr.Row():
            again = gr.Button("Answer again", elem_id="answer-again", size="sm", min_width=90)
            undo = gr.Button("Take back", elem_id="take-back", size="sm", min_width=90)
            new = gr.Button("New chat", elem_id="new-chat", size="sm", min_width=90)
            stop = gr.Button("Stop", elem_id="stop-chat", size="sm", min_width=70)
    asked: list[Any] = [key, model, rack, kept, question, seed, tokens]
    outputs = [kept, shown, question]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    writing = question.submit(
        chats.ask, asked, outputs, trigger_mode="once", concurrency_id="texts", **quiet
    )
    repeated = again.click(
        chats.again, asked, outputs, trigger_mode="once", concurrency_id="texts", **quiet
    )
    stop.click(None, cancels=[writing, repeated])
    undo.click(chats.undo, kept, outputs, cancels=[writing, repeated], **quiet)
    new.click(chats.new, None, outputs, cancels=[writing, repeated], **quiet)
    return column
