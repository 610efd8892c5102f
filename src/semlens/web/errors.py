"""Errors as answers: every one says the value, what was expected, and the remedy."""

from __future__ import annotations

import inspect
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from semlens import errors
from semlens.errors import SemlensError, ServeError
from semlens.web.jobs import JobPending

STATUS: dict[type[SemlensError], int] = {
    errors.LayerError: 404,
    errors.ImageError: 415,
    errors.BusyError: 409,
    errors.EditError: 409,
    errors.StaleError: 409,
    errors.StoreError: 409,
}
"""HTTP status by error class; 400 for all others."""


class ErrorResponse(BaseModel):
    """An error, as the page shows it."""

    kind: str
    """Name of the class, which has a section in ``docs/errors.md``."""
    value: str
    expected: str
    remedy: str


class HttpError(ServeError):
    """A request that the server refuses, with the HTTP status that says so."""

    def __init__(self, status: int, value: str, expected: str, remedy: str) -> None:
        super().__init__(value, expected, remedy)
        self.status = status


def not_found(what: str, expected: str) -> HttpError:
    """Return the error for something that is not there."""
    return HttpError(404, what, expected, "Choose one that is there.")


def answer(error: SemlensError) -> JSONResponse:
    """Turn an error into its answer."""
    status = error.status if isinstance(error, HttpError) else _status(type(error))
    body = ErrorResponse(
        kind=_kind(type(error)), value=error.value, expected=error.expected, remedy=error.remedy
    )
    return JSONResponse(body.model_dump(), status)


def _status(kind: type[SemlensError]) -> int:
    return next((STATUS[c] for c in inspect.getmro(kind) if c in STATUS), 400)


def _kind(kind: type[SemlensError]) -> str:
    """Return the name of the public class that an error is of."""
    return next(c.__name__ for c in inspect.getmro(kind) if c.__module__ == errors.__name__)


def install(app: FastAPI) -> None:
    """Let the application answer errors in this form."""
    app.add_exception_handler(SemlensError, _semlens)
    app.add_exception_handler(JobPending, _still_working)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)


def _semlens(request: Request, error: Exception) -> JSONResponse:
    return answer(cast(SemlensError, error))


def _still_working(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(cast(JobPending, error).state.model_dump(), 202)


def _http(request: Request, error: Exception) -> JSONResponse:
    status = cast(HTTPException, error).status_code
    if status == 405:
        found = HttpError(
            405,
            f"'{request.url.path}' does not take {request.method}.",
            "Expected another method.",
            "Look it up in the documentation.",
        )
    elif status == 404:
        found = not_found(f"There is nothing at '{request.url.path}'.", "Expected a known address.")
    else:
        text = str(cast(HTTPException, error).detail)
        found = HttpError(status, text, "Expected a request that can be read.", "Mend it.")
    return answer(found)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    faults: list[Any] = list(cast(RequestValidationError, error).errors())
    first = faults[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    given = repr(first.get("input"))
    return answer(
        HttpError(
            422,
            f"'{place}' is {given if len(given) <= 80 else given[:79] + '…'}{more}.",
            f"{first['msg']}.",
            "Mend it and ask again.",
        )
    )


def fault(path: str, error: Exception) -> JSONResponse:
    """Answer for a fault of ours; the traceback goes to the server's log, not to the page."""
    return answer(
        HttpError(
            500,
            f"The server failed at '{path}' ({type(error).__name__}).",
            "Expected an answer: this is a fault of semlens.",
            "Look at the server's log, and report it.",
        )
    )
