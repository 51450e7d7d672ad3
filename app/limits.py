"""Token buckets per client: a hit costs nothing, a tile that must be drawn one token."""

from __future__ import annotations

import time

from cachetools import LRUCache

BURST = 60.0
"""Seconds of its rate that a client may use at once: a few viewports."""

CLIENTS = 10_000
"""Clients remembered; who is forgotten starts with a full bucket."""


class TooManyError(RuntimeError):
    """A client asks for more than its share. retry_after: whole seconds until there is a token again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"you ask for new tiles faster than this server allows; try again in {retry_after} s")
        self.retry_after = retry_after


class TokenBuckets:
    """`rate` tokens a second for each client, at most BURST seconds' worth kept; no limit if 0. For one event loop."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._full = max(1.0, rate * BURST)
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(CLIENTS)

    def take(self, client: str) -> None:
        """Take a token. Raises TooManyError if there is none."""
        if not self._rate:
            return
        now = time.monotonic()
        tokens, then = self._buckets.get(client, (self._full, now))
        tokens = min(self._full, tokens + (now - then) * self._rate)
        if tokens < 1:
            self._buckets[client] = tokens, now
            raise TooManyError(max(1, round((1 - tokens) / self._rate + 0.5)))
        self._buckets[client] = tokens - 1, now
