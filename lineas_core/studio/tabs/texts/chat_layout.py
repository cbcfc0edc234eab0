"""Layout of the chat in the text tab."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from lineas_core.studio.views import completions


@dataclass(frozen=True)
class ChatFields:
    """The components of the chat.

    Attributes:
        column: column around the whole chat, hidden until chat mode is chosen.
        turns: the conversation.
        shown: the conversation as HTML.
        question: field for the next question.
        again: button that answers the last question again.
        undo: button that removes the last turn.
        new: button that starts an empty conversation.
        stop: button that cancels the answer being generated.
    """

    column: gr.Column
    turns: gr.State
    shown: gr.HTML
    question: gr.Textbox
    again: gr.Button
    undo: gr.Button
    new: gr.Button
    stop: gr.Button


def lay_out_chat() -> ChatFields:
    """Lay out the chat."""
    turns = gr.State([])
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
    return ChatFields(column, turns, shown, question, again, undo, new, stop)
