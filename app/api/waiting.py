"""How urgent a request is, and waiting for its work as long as its client does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from fastapi import Request

from tilecascade.app.errors import ClientLeftError
from tilecascade.app.tiles.lookahead import BackgroundTiles
from tilecascade.model.engine import Priority

Result = TypeVar("Result")


PREFETCH_URGENCY = 5
"""The HTTP urgency (RFC 9218; 0 is the most urgent, 7 the least) from which on a request counts as a prefetch."""


def priority_of(request: Request) -> Priority:
    """PREFETCH for `Priority: u=5` to `u=7` (RFC 9218), INTERACTIVE otherwise."""
    for part in request.headers.get("priority", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "u" and value.isascii() and value.isdigit():
            return Priority.PREFETCH if int(value) >= PREFETCH_URGENCY else Priority.INTERACTIVE
    return Priority.INTERACTIVE


async def wait_for(
    request: Request, background: BackgroundTiles, work: Coroutine[None, None, Result], seconds: float
) -> Result | None:
    """Wait for work. None when the time is over; it is still done, for the next request.

    When the client leaves, the work is dropped, unless others wait for it or the device has begun with it. Raises
    ClientLeftError.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_client_left(request))
    try:
        await asyncio.wait({working, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        working.cancel()
        raise
    finally:
        gone.cancel()
    if working.done():
        return working.result()
    if gone.done():
        working.cancel()
        raise ClientLeftError("the client left before the tile was generated")
    background.keep_going(working)
    return None


async def _client_left(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
