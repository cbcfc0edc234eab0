"""Validation of the page's input fields."""

from __future__ import annotations

from lineas_core.errors import ConfigError, PromptError
from lineas_core.prompts.prompt_set import MAX_PROMPT

MAX_TOKENS = 160
MAX_PROMPTS = 8
MAX_SEARCH = 200


def checked_search(search: str) -> str:
    """Return the words of a search after checking their length.

    Raises:
        ConfigError: they are too long.
    """
    if len(search) > MAX_SEARCH:
        raise ConfigError(
            f"search has {len(search)} characters, beginning with {search[:20]!r}; {MAX_SEARCH} "
            "is the limit. Search for fewer words."
        )
    return search


def checked_length(prompt: str, tokens: float) -> int:
    """Validate the prompt and return the maximum number of tokens to generate.

    Raises:
        PromptError: the prompt is empty or too long.
        ConfigError: the tokens are out of range.
    """
    if not prompt.strip():
        raise PromptError("The prompt is empty; write at least one word.")
    _check_lengths([prompt])
    length = whole("tokens", tokens)
    if not 1 <= length <= MAX_TOKENS:
        raise ConfigError(f"tokens is {length}; choose 1 to {MAX_TOKENS}.")
    return length


def whole(name: str, value: float | None) -> int:
    """Convert the value of the field `name` to an integer.

    Raises:
        ConfigError: the field is empty or not a whole number.
    """
    if value is None:
        raise ConfigError(f"The field {name} is empty; write a whole number in it.")
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} is {value!r}; give a whole number.") from error
    if number != float(value):
        raise ConfigError(f"{name} is {value!r}; give a whole number.")
    return number


def setting(name: str, text: str | float | None) -> float | None:
    """Convert what is in the optional field `name` to a number; None if it is empty.

    Raises:
        ConfigError: it is not a number.
    """
    written = "" if text is None else str(text).strip()
    try:
        return float(written) if written else None
    except ValueError as error:
        raise ConfigError(
            f"{name} is {written!r}; give a number, or leave the field empty for the model's own."
        ) from error


def checked_prompts(prompts: list[str]) -> list[str]:
    """Return the prompts after checking their number.

    Raises:
        PromptError: there are no prompts, more than `MAX_PROMPTS`, or too long ones.
    """
    if not prompts:
        raise PromptError("There is no prompt; write one on a line, or press Surprise me.")
    if len(prompts) > MAX_PROMPTS:
        raise PromptError(f"{len(prompts)} prompts; {MAX_PROMPTS} at most are pictured at once.")
    _check_lengths(prompts)
    return prompts


def lines_of(prompts: str) -> list[str]:
    """The prompts of a text field, one per line.

    Raises:
        PromptError: there are no prompts, more than `MAX_PROMPTS`, or too long ones.
    """
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    if not lines:
        raise PromptError("There is no prompt; write one on a line, or press Surprise me.")
    if len(lines) > MAX_PROMPTS:
        raise PromptError(f"{len(lines)} prompts; a grid takes {MAX_PROMPTS} at most.")
    _check_lengths(lines)
    return lines


def _check_lengths(prompts: list[str]) -> None:
    for number, prompt in enumerate(prompts, start=1):
        if len(prompt) > MAX_PROMPT:
            raise PromptError(
                f"Prompt {number} has {len(prompt)} characters, beginning with {prompt[:20]!r}; "
                f"{MAX_PROMPT} is the limit. Shorten it."
            )
