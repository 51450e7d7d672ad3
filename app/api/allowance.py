"""How many tiles may be generated for whom: token buckets by client, and a number a day by key.

A finished tile costs nothing, a tile that has to be generated costs one token.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

from cachetools import LRUCache
from fastapi import Request

from tilecascade.app.errors import RateLimitedError
from tilecascade.app.storage.keys import Key
from tilecascade.app.storage.usage import Usage

BURST_SECONDS = 60.0
"""How many seconds' worth of tokens a client may use at once: a few viewports."""

MAX_CLIENTS = 10_000
"""Clients remembered; a client that is forgotten starts with a full bucket."""


class Allowance:
    """`rate` tiles a second for each client, at most BURST_SECONDS' worth at once (0: no limit), and what the client's
    key allows a day. For one event loop."""

    def __init__(self, rate: float, usage: Usage) -> None:
        self._rate, self._usage = rate, usage
        self._full = max(1.0, rate * BURST_SECONDS)
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(MAX_CLIENTS)

    def take(self, request: Request) -> None:
        """Take a token for the client of a request. Raises RateLimitedError if it has none."""
        key = key_of(request)
        self.take_of_client(key.name if key else request.client.host if request.client else "")
        self.take_of_day(key, 1)

    def take_of_client(self, client: str) -> None:
        """Take a token of a client's bucket. Raises RateLimitedError if it is empty."""
        if not self._rate:
            return
        now = time.monotonic()
        tokens, then = self._buckets.get(client, (self._full, now))
        tokens = min(self._full, tokens + (now - then) * self._rate)
        if tokens < 1:
            self._buckets[client] = tokens, now
            wait = max(1, math.ceil((1 - tokens) / self._rate))
            raise RateLimitedError(
                f"this client asks for new tiles faster than this server allows; try again in {wait} s", wait
            )
        self._buckets[client] = tokens - 1, now

    def take_of_day(self, key: Key | None, tiles: int) -> None:
        """Count tiles as generated for a key. Raises RateLimitedError if that is more than it may have today (UTC)."""
        if key is None or not key.tiles_per_day:
            return
        now = datetime.now(UTC)
        day = now.date().isoformat()
        used = self._usage.today(key.name, day)
        if used + tiles > key.tiles_per_day:
            left = 86400 - (now.hour * 3600 + now.minute * 60 + now.second)
            raise RateLimitedError(
                f"key {key.name!r} may have {key.tiles_per_day} tiles generated a day and has used {used}; "
                f"ask for at most {key.tiles_per_day - used}, or tomorrow (UTC)",
                left,
            )
        self._usage.add(key.name, day, tiles)


def key_of(request: Request) -> Key | None:
    """The key that a request has come with."""
    key: Key | None = request.scope.get("state", {}).get("key")
    return key
