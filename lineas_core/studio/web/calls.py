"""The body of a call: JSON in UTF-8, parsed here once, and checked before Gradio sees it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Container, Mapping
from typing import Any, NoReturn

import gradio as gr

from lineas_core.errors import LineasError
from lineas_core.studio.access.limits import MIB
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.web.allowed import CALL, CALL_BY_NAMES, JOIN

# About four times the size of a table with 256 prompts of maximum length per side.
MAX_BODY = 8 * MIB
# Of lists, objects, numbers and texts in a body; 8 MiB of "[]," would take 250 MiB of memory.
MAX_VALUES = 400_000
# The page makes 11 letters and digits, gradio_client a UUID.
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


class CallError(LineasError, ValueError):
    """A call that is refused before it is queued.

    Args:
        message: names the field, its value and the remedy.
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def read_call(content_type: str, body: bytes) -> Any:
    """Parse the body of a call.

    Raises:
        CallError: it is not JSON in UTF-8, or has too many values.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise CallError(f"content-type is {kind!r:.80}; send application/json.", 415)
    if (values := body.count(b",") + 1) > MAX_VALUES:
        raise CallError(f"The body has {values} values; {MAX_VALUES} is the limit.", 413)
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CallError(f"The body is not JSON in UTF-8: {error}.") from error


def written(call: Any) -> bytes:
    """The body that Gradio is given: what was checked, whatever the client's body looked like."""
    return json.dumps(call).encode()


def check_call(
    route: str,
    parameters: Mapping[str, str],
    call: Any,
    functions: Mapping[int, Any],
    uploads: Container[str],
) -> None:
    """Refuse a call of a function that there is not, or with a file that was not uploaded.

    Args:
        route: the route it came to, one of `allowed.WRITE`.
        parameters: the parameters in its path.
        call: the parsed body.
        functions: the app's functions by their numbers.
        uploads: paths of uploaded files, as their senders were told them.

    Raises:
        CallError: it is refused.
    """
    if not isinstance(call, dict):
        raise CallError(f"The body is a JSON {type(call).__name__}; send an object.")
    _check_files(call, uploads)
    if route in (JOIN, CALL):
        if not isinstance(call.get("data"), list):
            raise CallError("data is missing, or no list; send the arguments in it.", 422)
        session = call.get("session_hash")
        if not (isinstance(session, str) and SESSION.fullmatch(session)) and (
            session is not None or route == JOIN
        ):
            raise CallError(
                f"session_hash is {session!r:.80}; send 1 to 64 letters, digits, - or _.", 422
            )
    if route == JOIN:
        number = call.get("fn_index")
        if type(number) is not int or number not in functions:
            raise CallError(f"fn_index is {number!r:.80}; there is no such function.", 404)
        _check_count(functions[number], call["data"])
    elif route in (CALL, CALL_BY_NAMES):
        name = parameters["api_name"]
        function = _public(name, functions)
        if route == CALL_BY_NAMES:
            _check_names(name, function, call)
        else:
            _check_count(function, call["data"])


def _public(name: str, functions: Mapping[int, Any]) -> Any:
    """The function of the API of that name."""
    public = {f.api_name: f for f in functions.values() if f.api_visibility == "public"}
    if name not in public:
        raise CallError(f"There is no function {name!r:.80}; there are {', '.join(public)}.", 404)
    return public[name]


def _check_count(function: Any, data: list[Any]) -> None:
    """Refuse more or fewer arguments than a function has, with or without the page's state."""
    every = len(function.inputs)
    without_state = sum(not part.skip_api for part in function.inputs)
    if len(data) not in (every, without_state):
        raise CallError(f"data has {len(data)} arguments; the function takes {every}.", 422)


def _check_names(name: str, function: Any, call: Mapping[str, Any]) -> None:
    """Refuse arguments that a function does not have, and the lack of one that it needs."""
    parameters = inspect.signature(function.fn).parameters
    for given in call:
        if given not in parameters:
            raise CallError(
                f"{given!r:.80} is no argument of {name}; it takes {', '.join(parameters)}.", 422
            )
    for wanted, parameter in parameters.items():
        if wanted not in call and parameter.default is parameter.empty:
            raise CallError(f"{wanted} is missing, which {name} needs.", 422)


def _check_files(call: Any, uploads: Container[str]) -> None:
    """Refuse a file, wherever in the call it is, that is not an upload.

    Gradio would fetch an address, and reads every file of its temporary folder, in which are
    others' downloads too. An upload's path holds a salted hash of its contents, so only whoever
    sent it was told it.
    """
    waiting = [call]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "path" in value and not (
                isinstance(value["path"], str) and value["path"] in uploads
            ):
                raise CallError(
                    f"A file's path is {without_paths(repr(value['path'])):.80}, which is no "
                    "upload; upload the file and send the path that you are told. Addresses are "
                    "not fetched."
                )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def functions_of(page: gr.Blocks) -> dict[int, Any]:
    """The functions of a page that run on the server, by their numbers."""
    return {number: function for number, function in page.fns.items() if function.fn is not None}
