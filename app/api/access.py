"""Who may ask for what: before a route sees a request, and before a byte of its body is read.

Reading needs no key, unless TILECASCADE_PUBLIC is false. A change needs a key with a role for it, sent as `X-API-Key`
or as `Authorization: Bearer`; where reads need one, too, map clients may send it as `?key=`, and the map page gets it
as a cookie. Every change is written to the audit log.
"""

from __future__ import annotations

import asyncio
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, HTTPException
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tilecascade.app.api.errors import answer_of
from tilecascade.app.api.request_log import REQUEST_ID
from tilecascade.app.errors import ForbiddenError, TilecascadeError, TooLargeError
from tilecascade.app.settings import DataDir, Settings
from tilecascade.app.storage.audit import AuditLog
from tilecascade.app.storage.keys import Key, KeyRing

ROLE_OF_CHANGE = {
    "/jobs": "prefetch",
    "/scenes": "scenes",
    "/territories": "scenes",
    "/areas": "scenes",
    "/reviews": "review",
    "/model": "admin",
}
"""The role that a change below a path needs. Elsewhere there is nothing to change (a test compares this with the
routes), so that a POST gets 405 or 404."""

OPEN = ("/health", "/static/")
"""Paths that never need a key: monitoring, and files that are the same on every server."""

UPLOADS = ("/scenes", "/model")
"""Paths that take a file as their body."""

SAFE = ("GET", "HEAD", "OPTIONS")
COOKIE = "tilecascade_key"
JSON_BYTES = 4 << 20
"""Largest body that is no scene: a GeoJSON area of a hundred thousand corners."""

SKETCH_BYTES = 32 << 20
"""Largest picture that a territory is made of."""

HEADER_BYTES = 32 << 10
IDLE_SECONDS = 30.0
"""How long a body that has begun may not go on: half-sent ones would use up connections."""

SCHEMES = [
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description="A key with the role that is needed.")),
    Depends(HTTPBearer(auto_error=False, description="The same key.")),
]
"""For the OpenAPI document only: `Access` has checked the key before a route is called."""


def first_segment(path: str) -> str:
    """ "/jobs" of "/jobs/7"."""
    return "/" + path.removeprefix("/").partition("/")[0]


class Access:
    """ASGI middleware that turns away who may not, and what is too large."""

    def __init__(self, app: ASGIApp, settings: Settings, prefix: str) -> None:
        self.app = app
        self._settings, self._prefix = settings, prefix
        self._keys: KeyRing | None = None
        self._audit = AuditLog(DataDir(settings.data_dir).audit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            secret = self._take_secret(scope)
            key = await asyncio.to_thread(self._key, secret) if secret else None
            self._check(scope, key, bool(secret))
            body = Body(receive, *self._limit_of(scope))
            body.check(Headers(scope=scope).get("content-length", ""))
        except TilecascadeError as error:
            await answer_of(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["key"] = key
        if scope["method"] in SAFE:
            await self.app(scope, body.receive, self._remembering(scope, secret if key else "", send))
            return
        await self._change(scope, body, key, send)

    def _key(self, secret: str) -> Key | None:
        if self._keys is None:
            self._keys = KeyRing(self._settings)
        return self._keys.find(secret)

    def path(self, scope: Scope) -> str:
        """The path of a request without the prefix that a proxy may have left on it."""
        path: str = scope["path"]
        return path.removeprefix(self._prefix) if self._prefix else path

    def _take_secret(self, scope: Scope) -> str:
        """What the request says its key is. `?key=` is taken out of the query, so that nothing below can show it."""
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:
            raise TooLargeError(f"the headers of a request may have {HEADER_BYTES} bytes")
        given = headers.get("x-api-key", "")
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if not given and scheme.lower() == "bearer":
            given = bearer.strip()
        if b"key=" in scope["query_string"]:
            pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != "key"]).encode()
            if scope["method"] in SAFE:  # in an address it is seen by too many for a change
                given = given or next((value for name, value in pairs if name == "key"), "")
                scope.setdefault("state", {})["key_in_query"] = given
        if not given and scope["method"] in SAFE and COOKIE in headers.get("cookie", ""):
            try:
                given = SimpleCookie(headers["cookie"])[COOKIE].value
            except (CookieError, KeyError):
                given = ""
        return given

    def _check(self, scope: Scope, key: Key | None, given: bool) -> None:
        """Raises ForbiddenError if the request needs a key that it has not come with."""
        path = self.path(scope)
        if scope["method"] in SAFE:
            if self._settings.public or path.startswith(OPEN) or scope["method"] == "OPTIONS":
                return
            role, what = "read", "this server is not public: it"
        else:
            role, what = ROLE_OF_CHANGE.get(first_segment(path), "read"), "this"
            if role == "read" and self._settings.public:
                return
        if key is not None and key.may(role):
            return
        if key is not None:
            raise ForbiddenError(f"key {key.name!r} has not the role {role!r}, which this needs")
        problem = "the key is unknown or has expired; " if given else ""
        raise ForbiddenError(
            f"{problem}{what} needs a key with the role {role!r}, as X-API-Key; `tilecascade keys` on the server's "
            "machine makes one"
        )

    def _limit_of(self, scope: Scope) -> tuple[int, str]:
        """How many bytes the body may have, and what to say of more."""
        is_json = Headers(scope=scope).get("content-type", "").startswith("application/json")
        if scope["method"] == "POST" and self.path(scope) in UPLOADS and not is_json:
            limit = self._settings.upload_bytes
            return limit, f"a file may have {limit} bytes here (TILECASCADE_UPLOAD_BYTES)"
        if first_segment(self.path(scope)) == "/territories":
            return SKETCH_BYTES, f"a sketch may have {SKETCH_BYTES} bytes"
        return JSON_BYTES, f"the body of this request may have {JSON_BYTES} bytes"

    def _remembering(self, scope: Scope, secret: str, send: Send) -> Send:
        """`send` that gives the map page of a server that is not public its key as a cookie."""
        if self._settings.public or not secret or self.path(scope) != "/":
            return send
        cookie = f"{COOKIE}={secret}; Path={self._prefix or '/'}; HttpOnly; SameSite=Strict"
        cookie += "; Secure" if scope["scheme"] == "https" else ""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("Set-Cookie", cookie)
            await send(message)

        return answer

    async def _change(self, scope: Scope, body: Body, key: Key | None, send: Send) -> None:
        """Pass a change on, and write down who asked for it and how it ended."""
        status: list[int] = []

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
            await send(message)

        try:
            await self.app(scope, body.receive, answer)
        finally:
            client = scope["client"][0] if scope.get("client") else ""
            fields: dict[str, Any] = {
                "key": key.name if key else None,
                "client": client,
                "method": scope["method"],
                "path": scope["raw_path"].decode("latin-1"),
                "query": scope["query_string"].decode("latin-1"),
                "status": status[0] if status else 0,
                "request": REQUEST_ID.get(),
            }
            await asyncio.shield(asyncio.to_thread(self._audit.write, **fields))


class Body:
    """The body of a request, counted as it comes: at most `most` bytes, else 413 with a sentence."""

    def __init__(self, receive: Receive, most: int, sentence: str) -> None:
        self._receive = receive
        self._size, self._most, self._sentence = 0, most, sentence
        self._complete = False

    def check(self, announced: str) -> None:
        """Raises TooLargeError for a body that says that it is too large."""
        if announced.isascii() and announced.isdigit() and int(announced) > self._most:
            raise TooLargeError(self._sentence)

    async def receive(self) -> Message:
        """See ASGI. Raises HTTPException, the only error that FastAPI lets through from here, for too much."""
        if not self._complete:
            try:
                message = await asyncio.wait_for(self._receive(), IDLE_SECONDS)
            except TimeoutError:
                raise HTTPException(408, f"nothing of the body has come for {IDLE_SECONDS:.0f} s") from None
        else:
            message = await self._receive()
        self._complete = self._complete or not message.get("more_body", False)
        self._size += len(message.get("body", b""))
        if self._size > self._most:
            raise HTTPException(413, self._sentence)
        return message
