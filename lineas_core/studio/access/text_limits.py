"""Limits on the texts that a language model is given: characters of each, and memory of all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lineas_core.errors import PromptError
from lineas_core.models.language.chat import Prompt
from lineas_core.models.language.model import LanguageModel
from lineas_core.prompts.prompt_set import MAX_PROMPT
from lineas_core.studio.access.limits import MIB, LimitError
from lineas_core.system.words import counted

# Tensors of the size of a layer's attention scores, hidden states, states within the MLP, and of
# the logits, that are held at once: the scores in float32, masked, and as probabilities, and so on.
SCORES, HIDDEN, INNER, LOGITS = 3, 8, 3, 3
# Keys and values of earlier tokens are copied where those of a new one are added, and the places
# that this leaves are too small for the next layer's.
CACHE = 2
FLOAT32 = 4


class TextLimits:
    """Refuses texts that are too long, or whose answer would take too much memory.

    Args:
        max_mebibytes: memory of one answer at most, without the model.
    """

    def __init__(self, max_mebibytes: int) -> None:
        self._max = max_mebibytes

    def check(self, model: LanguageModel, prompts: Sequence[Prompt], new_tokens: int) -> None:
        """Refuse what is asked of a model, before it runs.

        Args:
            model: the model.
            prompts: of all rows of the batch.
            new_tokens: written at most, of each row.

        Raises:
            PromptError: a prompt is empty, or has too many characters or tokens.
            LimitError: the answer would take too much memory.
        """
        for prompt in prompts:
            check_characters(prompt)
        tokens = max(len(model.encode(prompt, i, new_tokens)) for i, prompt in enumerate(prompts))
        needed = estimated_bytes(model, tokens, len(prompts), new_tokens)
        if needed > self._max * MIB:
            raise LimitError(
                f"{counted(len(prompts), 'text')} of {tokens} tokens and {new_tokens} more take "
                f"about {needed / MIB:.0f} MiB of memory with {model.id}, and {self._max} MiB is "
                "the limit of one answer here (LINEAS_MOST_CALL_MIB). Shorten the prompt, or take "
                "fewer samples."
            )


def check_characters(prompt: Prompt) -> None:
    """Refuse a prompt, or a conversation of messages, with too many characters.

    Raises:
        PromptError: a text has more than `MAX_PROMPT` (4,000).
    """
    for text in (prompt,) if isinstance(prompt, str) else (m["content"] for m in prompt):
        if len(text) > MAX_PROMPT:
            raise PromptError(
                f"The prompt has {len(text)} characters; {MAX_PROMPT} at most are read. Shorten it."
            )


def estimated_bytes(model: LanguageModel, tokens: int, rows: int, new_tokens: int) -> int:
    """About how much memory it takes to continue prompts and to measure what was written.

    Keys and values of all layers are kept, with as much room left behind where they grow. Of the
    rest, one layer's is held at a time:

        rows (tokens (2 layers 2 keys + 8 hidden + 3 inner) + 3 heads tokens^2 + 3 new vocabulary)

    in numbers of the model's precision, and in float32 the last two. The scores of attention
    (tokens^2) count on a CPU only, where they are held as a whole.

    Args:
        model: the model, whose weights do not count.
        tokens: of the longest prompt.
        rows: prompts that run together.
        new_tokens: written at most.
    """
    config = model.module.config.get_text_config()

    def size(name: str, default: int = 0) -> int:
        found = getattr(config, name, None)
        return found if isinstance(found, int) else default

    hidden, heads = size("hidden_size"), size("num_attention_heads", 1)
    keys = size("num_key_value_heads", heads) * size("head_dim", hidden // heads)
    a_token = CACHE * size("num_hidden_layers") * 2 * keys + HIDDEN * hidden
    a_token += INNER * size("intermediate_size", 4 * hidden)
    number = torch.empty(0, dtype=model.module.dtype).element_size()
    scores = SCORES * heads * tokens**2 if model.device.type == "cpu" else 0
    logits = LOGITS * (new_tokens + 1) * size("vocab_size")
    return rows * ((tokens + new_tokens) * a_token * number + FLOAT32 * (scores + logits))
