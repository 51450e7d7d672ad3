"""The one table from errors to HTTP statuses."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from tilecascade.app.errors import (
    AreaError,
    BadRequestError,
    BaseMapError,
    ClientLeftError,
    ForbiddenError,
    ImageryUnavailableError,
    ModelError,
    NeedsConfirmationError,
    NotFoundError,
    NoTileError,
    NotReadyError,
    PurgeError,
    RateLimitedError,
    SceneError,
    SceneRefusedError,
    SceneTooLargeError,
    StorageError,
    TooLargeError,
)
from tilecascade.model.engine import EngineClosedError, OutOfMemoryError, QueueFullError

STATUS: dict[type[Exception], int] = {
    BadRequestError: 400,
    RequestValidationError: 400,
    AreaError: 400,
    NeedsConfirmationError: 422,
    NotFoundError: 404,
    NoTileError: 404,
    NotReadyError: 503,
    ForbiddenError: 403,
    SceneRefusedError: 403,
    SceneTooLargeError: 413,
    TooLargeError: 413,
    SceneError: 422,
    ModelError: 422,
    PurgeError: 503,
    BaseMapError: 503,
    ImageryUnavailableError: 503,
    StorageError: 507,
    ClientLeftError: 499,
    EngineClosedError: 503,
    QueueFullError: 503,
    OutOfMemoryError: 503,
    RateLimitedError: 429,
}
"""The status of each error. The first class that fits counts, so subclasses stand before their base class."""

RETRY_AFTER = "2"
"""Seconds after which a client may try again when the server is not ready."""


def sentence(error: Exception) -> str:
    """The sentence for the client: the error's own message, or the first problem of a request that does not
    validate."""
    if isinstance(error, RequestValidationError):
        problem = error.errors()[0]
        return f"{problem['loc'][-1]}: {problem['msg']}"
    return str(error)


def answer_of(error: Exception) -> JSONResponse:
    """The answer to an error of the table."""
    status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
    headers = {"Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = RETRY_AFTER
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(error.retry_after)
    return JSONResponse({"detail": sentence(error)}, status, headers)


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every error of the table with its status and `{"detail": sentence}`."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        return answer_of(error)

    for kind in STATUS:
        app.add_exception_handler(kind, handle)
