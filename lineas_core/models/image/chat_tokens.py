"""Counts a prompt's tokens as a pipeline does whose text encoder is a chat model."""

from __future__ import annotations

from typing import Any


class ChatTokens:
    """A chat model's tokenizer, with the prompt in its template as the user's message.

    Args:
        tokenizer: the chat model's tokenizer.
        thinking: whether the template leaves room for the model to think.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool) -> None:
        self._tokenizer, self._thinking = tokenizer, thinking

    def __call__(self, prompt: str, **settings: Any) -> Any:
        """What the tokenizer gives for the prompt in its template."""
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self._thinking,
        )
        return self._tokenizer(text, **settings)
