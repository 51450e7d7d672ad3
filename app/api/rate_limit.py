"""Token buckets per client: a finished tile costs nothing, a tile that has to be generated costs one token."""

from __future__ import annotations

import time

from cachetools import LRUCache

from tilecascade.app.errors import RateLimitedError

BURST_SECONDS = 60.0
"""How many seconds' worth of tokens a client may use at once: a few viewports."""

MAX_CLIENTS = 10_000
"""Clients remembered; a client that is forgotten starts with a full bucket."""


class TokenBuckets:
    """`rate` tokens a second for each client, at most BURST_SECONDS' worth kept; no limit if 0. For one event loop."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._full = max(1.0, rate * BURST_SECONDS)
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(MAX_CLIENTS)

    def take(self, client: str) -> None:
        """Take a token of a client. Raises RateLimitedError if it has none."""
        if not self._rate:
            return
        now = time.monotonic()
        tokens, then = self._buckets.get(client, (self._full, now))
        tokens = min(self._full, tokens + (now - then) * self._rate)
        if tokens < 1:
            self._buckets[client] = tokens, now
            raise RateLimitedError(max(1, round((1 - tokens) / self._rate + 0.5)))
        self._buckets[client] = tokens - 1, now
