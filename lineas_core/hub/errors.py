"""Errors of the Hugging Face Hub, as messages that name the repository and suggest a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from lineas_core.errors import LineasError
from lineas_core.system.words import counted

# Path of a file's address on the Hub.
FILE_URL = re.compile("/(.+)/resolve/")
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


class HubError(LineasError, RuntimeError):
    """The Hub cannot be reached, refused the request, or does not hold what was requested."""


def check_repository(repo_id: str) -> None:
    """Raise a `HubError` if it is not a valid repository name."""
    if not REPOSITORY.fullmatch(repo_id):
        raise HubError(f"{repo_id!r} is no repository's name; write USER/NAME.")


@contextmanager
def hub_errors(subject: str) -> Iterator[None]:
    """Turn errors of the Hub's client into a HubError that suggests a remedy.

    Args:
        subject: what is asked of the Hub, in the error: a repository, mostly.
    """
    try:
        yield
    except (httpx.HTTPError, EntryNotFoundError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, LineasError):
            raise
        raise HubError(_message(error, subject)) from error


def refusal(error: BaseException | None, subject: str) -> str:
    """What the Hub refused, and what helps; "" if the error is another, such as a missing file.

    Args:
        error: any error; transformers and diffusers wrap those of the Hub's client.
        subject: what was asked of the Hub, in the message.
    """
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    if error is None or isinstance(error, EntryNotFoundError):
        return ""
    response = error.response
    if isinstance(error, GatedRepoError):
        # Terms are accepted by repository, and a model may have been asked for by a short name.
        asked = FILE_URL.match(response.request.url.path)
        repo = asked[1] if asked else subject
        return (
            f"{repo} requires you to accept its terms. Accept them at "
            f"https://huggingface.co/{repo}, and log in with `hf auth login` or give a token."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{subject} has no such revision. Check the branch, tag or commit."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"There is no {subject} that you may see. Check the name; if it is private, log in as "
            "somebody who may read it."
        )
    if response.status_code == 401:
        return f"The Hub does not accept the login for {subject}. Log in again, or check the token."
    if response.status_code == 402:
        return (
            f"The Hub asks for a paid plan, or a payment method, for {subject}. See the plans at "
            "hf.co/pricing; a free account may have Spaces on ZeroGPU (zero-a10g)."
        )
    if response.status_code == 403 and response.request.method in ("GET", "HEAD"):
        return f"The login may not read {subject}. Use a token that may."
    if response.status_code == 403:
        return (
            f"The login may not write to {subject}. Use a token that may write, and a name that "
            "begins with your own or with an organisation of yours; who logs in on a Space gives a "
            "new name, or that of a repository made there."
        )
    if response.status_code == 429:
        return f"The Hub has had too many requests for {subject}. Try again {_later(response)}."
    return f"The Hub answered {response.status_code} for {subject}. Try again later."


def _message(error: Exception, subject: str) -> str:
    if refused := refusal(error, subject):
        return refused
    if isinstance(error, HFValidationError):
        return f"{subject!r} is no repository's name; write USER/NAME."
    if isinstance(error, RemoteEntryNotFoundError):
        return f"{subject} does not hold that file. Check that it is a map's repository."
    if isinstance(
        error,
        (httpx.ConnectError, httpx.TimeoutException, OfflineModeIsEnabled, LocalEntryNotFoundError),
    ):
        return (
            f"The Hugging Face Hub cannot be reached for {subject}. Check the network, and that "
            "HF_HUB_OFFLINE is not set."
        )
    if isinstance(error, httpx.HTTPError):
        return f"The connection to the Hugging Face Hub broke off for {subject}. Try again."
    return f"The transfer with {subject} failed ({error}). Try again."


def _later(response: httpx.Response) -> str:
    """When the Hub takes requests again: of its own header, or of HTTP's."""
    limit = parse_ratelimit_headers(response.headers)
    wait = response.headers.get("Retry-After", "").strip()
    if limit is not None and limit.remaining == 0:
        return f"in {counted(limit.reset_in_seconds, 'second')}"
    return f"in {counted(int(wait), 'second')}" if wait.isdecimal() else "in a few minutes"
