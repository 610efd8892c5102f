"""Errors as JSON responses: value, expectation and remedy."""

from __future__ import annotations

import inspect
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from semlens import errors
from semlens.errors import SemlensError, ServeError, shortened
from semlens.web.jobs import JobPending

STATUS: dict[type[SemlensError], int] = {
    errors.LayerError: 404,
    errors.ImageError: 415,
    errors.BusyError: 409,
    errors.EditError: 409,
    errors.StaleError: 409,
    errors.StoreError: 409,
}
"""HTTP status by error class; 400 for every other class."""


MAX_TEXT = 2000
"""Characters of a part of an error; names in it may come from a request."""


class ErrorResponse(BaseModel):
    """An error as the page shows it."""

    kind: str
    """Name of the error class, which has a section in ``docs/errors.md``."""
    value: str
    expected: str
    remedy: str


class HttpError(ServeError):
    """A request that the server refuses, with its HTTP status."""

    def __init__(self, status: int, value: str, expected: str, remedy: str) -> None:
        super().__init__(value, expected, remedy)
        self.status = status


def not_found(value: str, expected: str, remedy: str = "Choose one of them.") -> HttpError:
    """Return the error for something that does not exist."""
    return HttpError(404, value, expected, remedy)


def no_page(path: str) -> HttpError:
    """Return the error for an address that does not exist."""
    return not_found(
        f"There is no page at '{path}'.",
        "Expected '/', a file of the page, or a route under '/api/v1'.",
        "Check the address, or open '/'.",
    )


def error_response(error: SemlensError) -> JSONResponse:
    """Return an error as JSON with its HTTP status."""
    status = error.status if isinstance(error, HttpError) else _status(type(error))
    return JSONResponse(error_model(error).model_dump(), status)


def error_model(error: SemlensError) -> ErrorResponse:
    """Return an error as part of a response."""
    return ErrorResponse(
        kind=_kind(type(error)),
        value=_sendable(error.value),
        expected=_sendable(error.expected),
        remedy=_sendable(error.remedy),
    )


def _sendable(text: str) -> str:
    """Return a text without the half characters that JSON can hold but UTF-8 cannot."""
    return shortened(text, MAX_TEXT).encode("utf-8", "backslashreplace").decode("utf-8")


def _status(kind: type[SemlensError]) -> int:
    return next((STATUS[c] for c in inspect.getmro(kind) if c in STATUS), 400)


def _kind(kind: type[SemlensError]) -> str:
    """Return the name of the public class of an error."""
    return next(c.__name__ for c in inspect.getmro(kind) if c.__module__ == errors.__name__)


def install(app: FastAPI) -> None:
    """Register the exception handlers."""
    app.add_exception_handler(SemlensError, _semlens)
    app.add_exception_handler(JobPending, _job_pending)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)


def _semlens(request: Request, error: Exception) -> JSONResponse:
    return error_response(cast(SemlensError, error))


def _job_pending(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(cast(JobPending, error).status.model_dump(), 202)


def _http(request: Request, error: Exception) -> JSONResponse:
    status = cast(HTTPException, error).status_code
    if status == 405:
        response = HttpError(
            405,
            f"'{request.url.path}' does not accept {request.method}.",
            "Expected another method.",
            "Look up the route in the documentation.",
        )
    elif status == 404:
        response = no_page(request.url.path)
    else:
        text = str(cast(HTTPException, error).detail)
        response = HttpError(status, text, "Expected a valid request.", "Fix the request.")
    return error_response(response)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    problems: list[Any] = list(cast(RequestValidationError, error).errors())
    first = problems[0]
    name = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    value = repr(first.get("input"))
    return error_response(
        HttpError(
            422,
            f"Invalid '{name}': {value if len(value) <= 80 else value[:79] + '…'}{more}.",
            f"{first['msg']}.",
            "Fix the value and try again.",
        )
    )


def internal_error(path: str, error: Exception) -> JSONResponse:
    """Return the response for a bug; its traceback goes to the server's log only."""
    return error_response(
        HttpError(
            500,
            f"The server failed at '{path}' ({type(error).__name__}).",
            "This is a bug in semlens.",
            "Please report it, with the traceback that the server printed.",
        )
    )
