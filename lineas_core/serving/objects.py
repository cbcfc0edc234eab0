"""Answers as objects of OpenAI's API: whole, and in the pieces of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from lineas_core.serving.asked import Asked
from lineas_core.serving.rows import NOTHING, Finish, Shown

OWNER = "lineas"


def model_object(name: str, created: int) -> dict[str, Any]:
    """A model of `/v1/models`; `created` is a Unix time."""
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}


class Answer:
    """Builds the objects of one answer, which share an id and a time.

    Args:
        asked: the request.
        prompt_tokens: number of tokens of all its prompts.
    """

    def __init__(self, asked: Asked, prompt_tokens: int) -> None:
        self._asked, self._prompt_tokens = asked, prompt_tokens
        prefix, kind = (
            ("chatcmpl", "chat.completion") if asked.chat else ("cmpl", "text_completion")
        )
        self._kind = kind
        self._begin = {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind}
        self._about = {
            "created": int(time.time()),
            "model": asked.model,
            "system_fingerprint": None,
        }
        self._sent: dict[int, Shown] = {}

    def whole(self, rows: Sequence[Shown]) -> dict[str, Any]:
        """The whole answer."""
        choices = []
        for index, row in enumerate(rows):
            choice: dict[str, Any] = {
                "index": index, "logprobs": None, "finish_reason": row.finish
            }  # fmt: skip
            if self._asked.chat:
                message = {"role": "assistant", "content": row.text, "refusal": None}
                choice["message"] = message
            else:
                choice["text"] = row.text
            choices.append(choice)
        return {**self._begin, **self._about, "choices": choices, "usage": self._usage(rows)}

    def pieces(self, rows: Sequence[Shown]) -> Iterator[bytes]:
        """The events of a stream for what was not sent yet."""
        for index, row in enumerate(rows):
            before = self._sent.get(index)
            if before is None and self._asked.chat:
                yield self._piece(index, {"role": "assistant", "content": ""}, None)
            sent = before or NOTHING
            if sent.finish:
                continue
            if new := row.text[len(sent.text) :]:
                yield self._piece(index, {"content": new} if self._asked.chat else new, None)
            if row.finish:
                yield self._piece(index, {} if self._asked.chat else "", row.finish)
            if before is None or len(row.text) >= len(sent.text):
                self._sent[index] = row

    def end(self, rows: Sequence[Shown]) -> Iterator[bytes]:
        """The last events of a stream."""
        if self._asked.include_usage:
            yield event(self._chunk([], self._usage(rows)))
        yield b"data: [DONE]\n\n"

    def _piece(self, index: int, new: dict[str, str] | str, finish: Finish | None) -> bytes:
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": finish}
        choice["delta" if self._asked.chat else "text"] = new
        return event(self._chunk([choice], None))

    def _chunk(self, choices: list[Any], usage: dict[str, int] | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._asked.chat else self._kind
        found = {**self._begin, "object": kind, **self._about, "choices": choices}
        return {**found, "usage": usage} if self._asked.include_usage else found

    def _usage(self, rows: Sequence[Shown]) -> dict[str, int]:
        written = sum(row.tokens for row in rows)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self._prompt_tokens + written,
        }


def event(value: Any) -> bytes:
    """A server-sent event with a JSON value, in UTF-8."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
