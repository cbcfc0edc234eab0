"""Requests as OpenAI's API defines them, checked, with `steering` added.

Fields that only concern OpenAI's bookkeeping are ignored. One that would change the text, and that
this server does not know, is refused: an answer that ignores it would be silently wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lineas_core.models.language.chat import Message, Prompt
from lineas_core.models.shared.batches import MAX_SEED
from lineas_core.serving.request_error import RequestError

# What `/v1/completions` writes at most where a request does not say, as at OpenAI.
COMPLETION_TOKENS = 16
MAX_STOPS = 4
MAX_TEMPERATURE = 2.0
# Fields without any effect on the text.
IGNORED = frozenset(
    (
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "parallel_tool_calls",
    )
)
# Fields with an effect that this server does not offer, and the values that ask for none.
WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}


@dataclass(frozen=True)
class Asked:
    """A checked request.

    Attributes:
        model: the name that the client gave.
        prompts: texts to continue, or one conversation.
        chat: whether it is a conversation.
        n: answers to each prompt.
        seed: of the first answer to each prompt, the next ones have the next seeds; None to draw
            one.
        temperature: 0 to 2.
        max_tokens: written at most; None for as many as the server allows.
        stops: texts that an answer ends before.
        stream: whether the answer is sent as it is written.
        include_usage: whether the stream ends with the numbers of tokens.
        steering: (map, strength) pairs, first applied first; None where the request has none.
    """

    model: str
    prompts: tuple[Prompt, ...]
    chat: bool
    n: int
    seed: int | None
    temperature: float
    max_tokens: int | None
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    steering: tuple[tuple[str, float], ...] | None


class _Steering(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    map: str
    strength: float


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)
    include_usage: bool = False


_Tokens = Annotated[int, Field(ge=1)]
_Stop = Annotated[str, Field(min_length=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: str
    n: int = Field(1, ge=1)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    temperature: float = Field(1.0, ge=0, le=MAX_TEMPERATURE)
    max_tokens: _Tokens | None = None
    stop: list[_Stop] = Field([], max_length=MAX_STOPS)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    steering: list[_Steering] | None = None


class _Completion(_Request):
    prompt: list[str] = Field(min_length=1)


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)
    role: str
    content: Any


class _Chat(_Request):
    max_completion_tokens: _Tokens | None = None
    messages: list[_Message] = Field(min_length=1)


def read_request(body: bytes, *, chat: bool) -> Asked:
    """Read the body of `/v1/chat/completions`, or of `/v1/completions`.

    Raises:
        RequestError: the body is not JSON, or a field is missing, wrong or not offered.
    """
    try:
        given = json.loads(body)
        # Half of a surrogate pair is JSON, but no text.
        json.dumps(given, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The body is not JSON in UTF-8: {error}.") from error
    if not isinstance(given, dict):
        raise RequestError(f"The body is a JSON {type(given).__name__}; send an object.")
    # At OpenAI null means the same as to leave a field out.
    fields = {name: value for name, value in given.items() if value is not None}
    fields = {name: value for name, value in fields.items() if name not in IGNORED}
    for name, allowed in WITHOUT_EFFECT.items():
        value = fields.pop(name, None)
        if value is not None and not any(_same(value, other) for other in allowed):
            raise RequestError(
                f"{name} is {_short(value)}, which this server does not offer. Leave it out.",
                param=name,
                code="unsupported_parameter",
            )
    for name in ("stop", "prompt"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    try:
        found = (_Chat if chat else _Completion).model_validate(fields)
    except ValidationError as error:
        raise _refusal(error) from error
    return _asked(found)


def _asked(found: _Request) -> Asked:
    if isinstance(found, _Chat):
        prompts: tuple[Prompt, ...] = (
            [_message(message, place) for place, message in enumerate(found.messages)],
        )
        # The newer name of the same field.
        tokens = found.max_completion_tokens or found.max_tokens
    else:
        assert isinstance(found, _Completion)
        prompts, tokens = tuple(found.prompt), found.max_tokens or COMPLETION_TOKENS
    steering = found.steering
    named = None if steering is None else tuple((each.map, each.strength) for each in steering)
    return Asked(
        model=found.model,
        prompts=prompts,
        chat=isinstance(found, _Chat),
        n=found.n,
        seed=found.seed,
        temperature=found.temperature,
        max_tokens=tokens,
        stops=tuple(found.stop),
        stream=found.stream,
        include_usage=found.stream_options.include_usage,
        steering=named,
    )


def _message(message: _Message, place: int) -> Message:
    # OpenAI's later name of the role that chat templates call system.
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": _text(message.content, f"messages.{place}.content")}


def _text(content: Any, param: str) -> str:
    """The text of a message, which may be given in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise RequestError(f"{param} is {_short(content)}; give a text.", param=param)
    for place, part in enumerate(content):
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            raise RequestError(
                f"{param}.{place} is {_short(part)}; this server reads only parts of type text.",
                param=f"{param}.{place}",
            )
    return "\n".join(part["text"] for part in content)


def _refusal(error: ValidationError) -> RequestError:
    first = error.errors()[0]
    param = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return RequestError(f"{param} is missing; every request has one.", param=param)
    if first["type"] == "extra_forbidden":
        return RequestError(
            f"{param} is not a field that this server knows. Leave it out.",
            param=param,
            code="unknown_parameter",
        )
    return RequestError(f"{param} is {_short(first['input'])}: {first['msg']}.", param=param)


def _same(value: Any, other: Any) -> bool:
    """Equality that tells False from 0."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
