"""Errors that clients see, and the one table from exception to status."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from app.areas import AreaError
from app.basemap import BaseMapError
from app.imagery import SceneError
from app.limits import TooManyError
from app.resolver import NoTileError, PurgeError
from app.scenes import SceneRefusedError, SceneTooLargeError
from model.engine import EngineClosedError, QueueFullError


class BadRequestError(ValueError):
    """The request itself is wrong."""


class NotFoundError(LookupError):
    """There is no such thing."""


class NotReadyError(RuntimeError):
    """It will be there soon."""


class ForbiddenError(PermissionError):
    """The request may not do that."""


class NeedsConfirmationError(ValueError):
    """Something large that the client has to mean."""


class ClientLeftError(RuntimeError):
    """Nobody will read the answer."""


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
    SceneError: 422,
    PurgeError: 503,
    BaseMapError: 503,
    ClientLeftError: 499,
    EngineClosedError: 503,
    QueueFullError: 503,
    TooManyError: 429,
}

RETRY_AFTER = "2"


def sentence(error: Exception) -> str:
    """What to tell the client."""
    if isinstance(error, RequestValidationError):
        problem = error.errors()[0]
        return f"{problem['loc'][-1]}: {problem['msg']}"
    return str(error)


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every known exception with its status and one sentence as JSON."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
        headers = {"Cache-Control": "no-store"}
        if status == 503:
            headers["Retry-After"] = RETRY_AFTER
        if isinstance(error, TooManyError):
            headers["Retry-After"] = str(error.retry_after)
        return JSONResponse({"detail": sentence(error)}, status, headers)

    for kind in STATUS:
        app.add_exception_handler(kind, handle)
