"""The HTTP routes: `/v1/models`, `/v1/chat/completions` and `/v1/completions`.

Starlette and uvicorn come with Gradio, and are all that this needs of it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from lineas_core.errors import LineasError, MapError, PromptError, SiteError
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.language.sampling import MAX_NEW_TOKENS
from lineas_core.models.shared.batches import MAX_SEED
from lineas_core.serving.asked import Asked, read_request
from lineas_core.serving.batches import Batches, Question, Ticket, together
from lineas_core.serving.host import Host
from lineas_core.serving.hosts import HostCheck, Hosts
from lineas_core.serving.objects import Answer, event, model_object
from lineas_core.serving.request_error import RequestError
from lineas_core.serving.rows import Shown
from lineas_core.steering import steer

MAX_BODY = 8 * 2**20
# Texts of the most characters that one request may have.
MAX_TEXTS = 25
# Seeds that are drawn where a request has none.
DRAWN_SEEDS = 2**31
# nginx's status for a client that has closed the connection; nobody gets it.
CLIENT_LEFT = 499
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

T = TypeVar("T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
log = logging.getLogger(__name__)


class _LeftError(Exception):
    """The client has closed the connection."""


class Routes:
    """The routes of a host.

    Args:
        host: who may ask, which models and maps there are.
    """

    def __init__(self, host: Host) -> None:
        self._host, self._created = host, int(time.time())
        self._batches = Batches(
            host.running, max_rows=host.max_rows, max_waiting=host.max_waiting, exact=host.exact
        )

    def listed(self) -> list[BaseRoute]:
        """The routes, for any Starlette application."""
        routes: list[tuple[str, str, Handler]] = [
            ("/v1/models", "GET", self._models),
            ("/v1/models/{name:path}", "GET", self._model),
            ("/v1/chat/completions", "POST", functools.partial(self._completions, chat=True)),
            ("/v1/completions", "POST", functools.partial(self._completions, chat=False)),
        ]
        found = [Route(path, self._guarded(do), methods=[method]) for path, method, do in routes]
        return [*found, Route("/v1/{rest:path}", self._guarded(_unknown), methods=METHODS)]

    def _guarded(self, handler: Handler) -> Handler:
        """Answer errors with OpenAI's error object."""

        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except _LeftError:
                return Response(status_code=CLIENT_LEFT)
            except Exception as error:
                refusal = self._refusal(error)
                return JSONResponse(refusal.body, refusal.status)

        return guarded

    def _refusal(self, error: Exception) -> RequestError:
        if isinstance(error, RequestError):
            told = self._host.told(str(error))
            return RequestError(told, status=error.status, param=error.param, code=error.code)
        if isinstance(error, LineasError):
            param = "steering" if isinstance(error, MapError | SiteError) else None
            return RequestError(self._host.told(str(error)), param=param)
        log.error("a request failed", exc_info=error)
        return RequestError(
            "Something unexpected went wrong; the server's log says what.", status=500
        )

    async def _models(self, request: Request) -> Response:
        await asyncio.to_thread(self._host.caller, _key(request))
        found = [model_object(name, self._created) for name in self._host.models()]
        return JSONResponse({"object": "list", "data": found})

    async def _model(self, request: Request) -> Response:
        await asyncio.to_thread(self._host.caller, _key(request))
        name = request.path_params["name"]
        if name not in self._host.models():
            raise RequestError(
                f"model is {name!r}; /v1/models lists those that are here.",
                status=404, param="model", code="model_not_found",
            )  # fmt: skip
        return JSONResponse(model_object(name, self._created))

    async def _completions(self, request: Request, *, chat: bool) -> Response:
        caller = await asyncio.to_thread(self._host.caller, _key(request))
        asked = read_request(await _body(request), chat=chat)
        question, prompt_tokens = await asyncio.to_thread(self._question, caller, asked)
        ticket = Ticket(question)
        self._batches.submit(ticket)
        answer, news = Answer(asked, prompt_tokens), ticket.news()
        try:
            # What fails before the first token still has an HTTP status.
            rows = await _unless_left(request, anext(news))
            if asked.stream:
                stream = self._stream(answer, rows, news)
                return StreamingResponse(stream, media_type="text/event-stream")
            return JSONResponse(answer.whole(await _unless_left(request, _last(rows, news))))
        except BaseException:
            ticket.left = True
            raise

    async def _stream(
        self, answer: Answer, rows: list[Shown], news: AsyncIterator[list[Shown]]
    ) -> AsyncIterator[bytes]:
        try:
            for piece in answer.pieces(rows):
                yield piece
            async for rows in news:
                for piece in answer.pieces(rows):
                    yield piece
            for piece in answer.end(rows):
                yield piece
        except Exception as error:
            yield event(self._refusal(error).body)

    def _question(self, caller: str, asked: Asked) -> tuple[Question, int]:
        """What is asked of the model, and the number of tokens of all prompts."""
        host, answers = self._host, len(asked.prompts) * asked.n
        if answers > host.max_choices:
            raise RequestError(
                f"n is {asked.n}, for {len(asked.prompts)} prompts: {answers} answers, and "
                f"{host.max_choices} is the limit of one request here.",
                param="n",
            )
        _check_characters(asked, host.max_characters)
        steering = host.steering(caller, asked.model, asked.steering, answers)
        model = host.load(asked.model)
        lengths = [_length(model, asked, place) for place in range(len(asked.prompts))]
        with steer(model, together([steering])):
            pass
        seed = secrets.randbelow(DRAWN_SEEDS) if asked.seed is None else asked.seed
        if seed + asked.n - 1 > MAX_SEED:
            raise RequestError(f"seed is {seed}; with n {asked.n} it is too large.", param="seed")
        room = self._room(model, asked, max(lengths))
        prompts = [prompt for prompt in asked.prompts for _ in range(asked.n)]
        host.check(model, prompts, room)
        question = Question(
            name=asked.model,
            model=model,
            prompts=prompts,
            seeds=[seed + number for _ in asked.prompts for number in range(asked.n)],
            steering=steering,
            temperature=asked.temperature,
            room=room,
            stops=asked.stops,
            length=max(lengths),
        )
        return question, sum(lengths)

    def _room(self, model: LanguageModel, asked: Asked, length: int) -> int:
        """Tokens that an answer may have: as many as asked for, the host allows and fit."""
        limits = [self._host.max_tokens, MAX_NEW_TOKENS]
        if model.max_length is not None:
            limits.append(model.max_length - length)
        if asked.max_tokens is not None:
            limits.append(asked.max_tokens)
        if min(limits) < 1:
            raise RequestError(
                f"{_prompts_of(asked)} has {length} tokens, and {asked.model} reads "
                f"{model.max_length}, its answer included. Shorten it.",
                param=_prompts_of(asked),
                code="context_length_exceeded",
            )
        return min(limits)


def application(host: Host, hosts: Hosts | None = None) -> Starlette:
    """The routes of a host as an application of their own.

    Args:
        host: who may ask, which models and maps there are.
        hosts: the hosts that it answers for; by default this machine and addresses.
    """

    async def lost(request: Request, error: Exception) -> Response:
        return JSONResponse(_no_such(request).body, 404)

    return Starlette(
        routes=Routes(host).listed(),
        exception_handlers={404: lost},
        middleware=[Middleware(HostCheck, hosts=hosts or Hosts())],
    )


async def _unknown(request: Request) -> Response:
    raise _no_such(request)


def _no_such(request: Request) -> RequestError:
    return RequestError(
        f"There is no {request.method} {request.url.path} here; there are GET /v1/models, "
        "POST /v1/chat/completions and POST /v1/completions.",
        status=404,
        code="unknown_url",
    )


def _key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


async def _body(request: Request) -> bytes:
    """The body of a JSON request.

    Pages of other sites can make a browser send a request of another content type, but not this
    one.
    """
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content != "application/json":
        raise RequestError(f"content-type is {content!r}; send application/json.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise RequestError(f"The body is longer than {MAX_BODY} bytes; send less.", status=413)
    return body


def _length(model: LanguageModel, asked: Asked, place: int) -> int:
    """Number of tokens of a prompt."""
    param = _prompts_of(asked)
    if asked.chat and not model.chats:
        raise RequestError(
            f"{asked.model} has no chat template: it continues texts and does not answer. Use "
            "/v1/completions, or an instruct model.",
            param=param,
        )
    try:
        return len(model.encode(asked.prompts[place], place))
    except PromptError as error:
        raise RequestError(str(error), param=param) from error


def _check_characters(asked: Asked, most: int | None) -> None:
    """Refuse texts that are too long, each or together, before they are made into tokens.

    Raises:
        RequestError: one is.
    """
    if most is None:
        return
    texts = [
        text
        for prompt in asked.prompts
        for text in ((prompt,) if isinstance(prompt, str) else [m["content"] for m in prompt])
    ]
    longest, together = max(map(len, texts)), sum(map(len, texts))
    if longest > most:
        raise RequestError(
            f"A text has {longest} characters; {most} at most are read. Shorten it.",
            param=_prompts_of(asked),
        )
    if together > MAX_TEXTS * most:
        raise RequestError(
            f"The texts have {together} characters together; {MAX_TEXTS * most} at most are read. "
            "Leave some out.",
            param=_prompts_of(asked),
        )


def _prompts_of(asked: Asked) -> str:
    return "messages" if asked.chat else "prompt"


async def _last(rows: list[Shown], news: AsyncIterator[list[Shown]]) -> list[Shown]:
    async for later in news:
        rows = later
    return rows


async def _unless_left(request: Request, answer: Awaitable[T]) -> T:
    """The answer, unless the client closes the connection before it is ready.

    Raises:
        _LeftError: it did.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    asked, left = asyncio.ensure_future(answer), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((asked, left), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        raise _LeftError
    finally:
        for task in (asked, left):
            task.cancel()
        await asyncio.gather(asked, left, return_exceptions=True)
