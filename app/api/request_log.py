"""Log lines as text or as JSON, each with the id of the request that it belongs to."""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.json import JsonFormatter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
_USABLE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
log = logging.getLogger(__name__)

QUIET = ("/health", "/metrics")
"""Paths that monitoring asks for every few seconds; their plain answers are not logged."""


class _WithRequest(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request = REQUEST_ID.get()
        return True


def set_up(form: Literal["text", "json"]) -> None:
    """Log to stderr: this program and its web server from level INFO on, other libraries from WARNING on."""
    handler = logging.StreamHandler()
    handler.addFilter(_WithRequest())
    fields = "%(asctime)s %(levelname)s %(name)s [%(request)s] %(message)s"
    handler.setFormatter(JsonFormatter(fields) if form == "json" else logging.Formatter(fields))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("tilecascade", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


class RequestLog:
    """ASGI middleware: gives each request an id (the client's X-Request-ID, if it is a plain one), sends it back, and
    logs what was not a plain hit."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _USABLE.fullmatch(given) else uuid.uuid4().hex[:12]
        token, began = REQUEST_ID.set(request_id), time.perf_counter()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                state = headers.get("x-tile-state", "-")
                plain = state == "cached" or (scope["path"] in QUIET and message["status"] == 200)
                if not plain:
                    milliseconds = (time.perf_counter() - began) * 1000
                    status, path = message["status"], scope["raw_path"].decode("latin-1")  # still quoted: one line
                    answer_fields = {"status": status, "path": path, "state": state, "ms": round(milliseconds, 1)}
                    log.info(
                        "%s %s %s %s %.0f ms",
                        scope["method"],
                        path,
                        status,
                        state,
                        milliseconds,
                        extra=answer_fields,
                    )
            await send(message)

        try:
            await self.app(scope, receive, answer)
        finally:
            REQUEST_ID.reset(token)
