"""Conversations as prompts: a tokenizer's chat template turns messages into tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2
import transformers

from lineas_core.errors import PromptError

# {"role": "user", "content": "..."}; roles are those that the model's template knows.
Message = Mapping[str, str]
Prompt = str | Sequence[Message]


def has_chat(tokenizer: transformers.PreTrainedTokenizerBase) -> bool:
    """Whether the model was tuned to answer messages: its tokenizer has a chat template."""
    return bool(tokenizer.chat_template)


def encode_chat(
    tokenizer: transformers.PreTrainedTokenizerBase, messages: Sequence[Message], index: int
) -> list[int]:
    """The tokens of a conversation, up to where the model's next answer begins.

    The template places the special tokens, so none are added.

    Args:
        tokenizer: the model's tokenizer.
        messages: at least one, each with "role" and "content".
        index: index of the prompt, for error messages.

    Raises:
        PromptError: the model has no chat template, or the template refuses the messages.
    """
    if not has_chat(tokenizer):
        raise PromptError(
            f"Prompt {index + 1} is a conversation, and this model has no chat template. Give a "
            "text to complete, or choose an instruct model such as smollm2."
        )
    if not messages or not all({"role", "content"} <= set(message) for message in messages):
        raise PromptError(
            f"Prompt {index + 1} is {list(messages)!r}; a conversation is a list of messages, "
            'each with "role" and "content".'
        )
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, return_dict=False
        )
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        raise PromptError(
            f"Prompt {index + 1} does not fit the model's chat template ({error}). Most templates "
            "take an optional system message, then user and assistant in turn."
        ) from error
    return ids
