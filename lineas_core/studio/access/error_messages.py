"""Messages for exceptions in callbacks and jobs: those of the library are shown, others logged."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import gradio as gr

from lineas_core.errors import LineasError
from lineas_core.studio.access.redaction import without_paths
from lineas_core.studio.storage.disk import TEMPORARY_FULL, is_full, no_room

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)


def with_messages(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a callback: the library's errors become messages on the page, others are logged."""
    # The page renders messages as HTML, and they may contain text from visitors.
    return _guarded(function, lambda text: escape(text, quote=False))


def with_plain_messages(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a callback as `with_messages` does, without HTML escaping, for API clients."""
    return _guarded(function, str)


def why_failed(error: Exception, folder: Path) -> str:
    """The message that says why a job failed.

    Args:
        error: what ended it.
        folder: LINEAS_HOME, for an error of a full disk.
    """
    if is_full(error):
        return no_room(folder)
    if isinstance(error, LineasError):
        return str(error)
    return (
        f"Training stopped by an unexpected error ({type(error).__name__}). "
        "The log has the details."
    )


def _guarded(function: Callable[P, R], shown: Callable[[str], str]) -> Callable[P, R]:
    def message(error: Exception) -> gr.Error:
        if isinstance(error, gr.Error):
            return error
        if isinstance(error, LineasError):
            return gr.Error(shown(without_paths(str(error))), print_exception=False)
        log.error("%s failed", function.__name__, exc_info=error)
        if is_full(error):
            return gr.Error(TEMPORARY_FULL, print_exception=False)
        return gr.Error(
            "Something unexpected went wrong; the log has the details. Nothing was lost.",
            print_exception=False,
        )

    if inspect.isgeneratorfunction(inspect.unwrap(function)):

        @functools.wraps(function)
        def streamed(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
            try:
                yield from cast(Iterator[Any], function(*args, **kwargs))
            except Exception as error:
                raise message(error) from error

        return cast(Callable[P, R], streamed)

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise message(error) from error

    return guarded
