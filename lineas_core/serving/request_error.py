"""Errors of the server, in the form that clients of OpenAI's API read."""

from __future__ import annotations

from typing import Any

from lineas_core.errors import LineasError


class RequestError(LineasError, RuntimeError):
    """A request that is not answered.

    Args:
        message: names the field, its value and the remedy.
        status: the HTTP status.
        param: the field of the request; None where no field is to blame.
        code: OpenAI's word for the kind of error, if it has one.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The error object of OpenAI's API."""
        kind = {429: "requests", 500: "server_error"}.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}
