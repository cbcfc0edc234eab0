"""Layout of the text tab, and the callback of each control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lineas_core.studio.answers.answers import Answers
from lineas_core.studio.answers.fields import MAX_TOKENS
from lineas_core.studio.answers.texts import MAX_SAMPLES
from lineas_core.studio.app import Studio
from lineas_core.studio.components.seeds import DRAW, build_seed
from lineas_core.studio.components.wiring import again, field_and_follow
from lineas_core.studio.tabs.fields import OPENINGS, SteerTab
from lineas_core.studio.tabs.pins import TextScene, build_pins
from lineas_core.studio.tabs.texts.callbacks import ModeOutputs, TextCallbacks
from lineas_core.studio.tabs.texts.chat import ChatCallbacks, ChatOutputs
from lineas_core.studio.tabs.texts.chat_layout import ChatFields, lay_out_chat
from lineas_core.studio.views import completions


def build_text_tab(
    studio: Studio, answers: Answers, key: gr.BrowserState, rack: gr.HTML, tab: gr.Tab
) -> SteerTab:
    """Lay out the tab and wire it to the rack."""
    callbacks = TextCallbacks(studio, answers)
    mode = gr.Radio(
        [("Complete a text", "complete"), ("Chat", "chat")],
        value="complete",
        show_label=False,
        container=False,
        elem_id="text-mode",
    )
    waiting = completions.pair(OPENINGS[0], ("Unsteered", "Steered"), ("", ""), ())
    pair = gr.HTML(waiting, elem_id="pair", min_height=230)
    talk = gr.Column(elem_id="talk")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300) as beginning:
            prompt = gr.Textbox(OPENINGS[0], label="Prompt", lines=2, elem_id="prompt")
            gr.Examples([[text] for text in OPENINGS], prompt, label="Openings")
            words = gr.Textbox(
                "",
                label="Words that count as the concept",
                info="Of maps of yours: likelier in their target than in their source. Edit them; "
                "any ending counts. Published lists stay as they are.",
                lines=1,
                max_lines=6,
                elem_id="own-words",
            )
        with gr.Column(scale=2, min_width=280):
            model = gr.Dropdown(
                studio.model_choices("text"),
                label="Model",
                elem_id="text-model",
                allow_custom_value=not studio.settings.demo,
            )
            dice = build_seed(3, "text-seed")
            seed = dice.seed
            with gr.Row():
                samples = gr.Number(
                    3, label="Samples", precision=0, minimum=1, maximum=MAX_SAMPLES, min_width=80
                )
                tokens = gr.Number(
                    48, label="Tokens", precision=0, minimum=1, maximum=MAX_TOKENS, min_width=80,
                    elem_id="tokens",
                )  # fmt: skip
            with gr.Row() as running:
                run = gr.Button("Compare", variant="primary", elem_id="compare", size="md",
                                min_width=100)  # fmt: skip
                stop = gr.Button("Stop", elem_id="stop-compare", min_width=80, size="md")
    with gr.Column() as table:
        build_pins(studio, key, "text", "pair", TextScene(rack, model, prompt, seed, tokens))
        with gr.Row():
            sweep = gr.Button("Table over strengths", elem_id="sweep", size="md", scale=4)
            sheet = gr.DownloadButton(
                "CSV", elem_id="sweep-csv", size="md", interactive=False, min_width=80, scale=1
            )
        row = gr.HTML(elem_id="row", min_height=40)
    with talk:
        chat = lay_out_chat()

    modes = ModeOutputs(
        pair=pair,
        beginning=beginning,
        samples=samples,
        buttons=running,
        table=table,
        chat=chat.column,
    )
    mode.change(
        callbacks.choose_mode,
        mode,
        [*modes],
        show_progress="hidden",
        api_visibility="private",
    )
    asked = [key, model, rack, prompt, seed, tokens]
    # Only the scene sends requests, so that a late answer never replaces a newer one.
    gr.on([run.click, prompt.submit, seed.submit], None, None, None, js=again("text"))
    writing = rack.submit(
        callbacks.compare,
        [*asked, words],
        pair,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        concurrency_id="texts",
    )
    sweeping = sweep.click(
        callbacks.sweep,
        [*asked, samples, words],
        [row, sheet],
        trigger_mode="once",
        api_visibility="private",
        concurrency_id="texts",
    )
    gr.on(
        [rack.submit, tab.select], callbacks.words, [key, model, rack, words], words,
        trigger_mode="always_last", show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    dice.draw.click(None, [seed, dice.lock], seed, js=DRAW).then(
        None, seed, None, js=field_and_follow("text", "seed")
    )
    stop.click(None, cancels=[writing, sweeping])
    _wire_chat(ChatCallbacks(studio, answers), chat, [key, model, rack], [seed, tokens])
    return SteerTab(tab, model, prompt, seed, asked)


def _wire_chat(
    callbacks: ChatCallbacks, chat: ChatFields, first: Sequence[Any], last: Sequence[Any]
) -> None:
    """Wire the chat.

    Args:
        callbacks: callbacks of the chat.
        chat: components of the chat.
        first: the inputs before the conversation and the question.
        last: the inputs after them.
    """
    asked = [*first, chat.turns, chat.question, *last]
    outputs = [*ChatOutputs(turns=chat.turns, shown=chat.shown, question=chat.question)]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    writing = chat.question.submit(
        callbacks.ask, asked, outputs, trigger_mode="once", concurrency_id="texts", **quiet
    )
    repeated = chat.again.click(
        callbacks.again, asked, outputs, trigger_mode="once", concurrency_id="texts", **quiet
    )
    chat.stop.click(None, cancels=[writing, repeated])
    chat.undo.click(callbacks.undo, chat.turns, outputs, cancels=[writing, repeated], **quiet)
    chat.new.click(callbacks.new, None, outputs, cancels=[writing, repeated], **quiet)
