"""The nearest tier: a byte-bounded LRU in the process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import LRUCache


class MemoryStore:
    """At most `limit` bytes of values; a value larger than that is not kept."""

    name = "memory"

    def __init__(self, limit: int) -> None:
        self._cache: LRUCache[str, bytes] = LRUCache(maxsize=limit, getsizeof=len)
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """See Store."""
        with self._lock:
            return self._cache.get(key)

    def put(self, key: str, value: bytes) -> None:
        """See Store."""
        with self._lock:
            if len(value) <= self._cache.maxsize:
                self._cache[key] = value

    def purge(self, folder: str, outdated: Callable[[str], bool]) -> None:
        """See Store."""
        with self._lock:
            for key in [key for key in self._cache if key.startswith(folder + "/") and outdated(key)]:
                del self._cache[key]

    def check(self) -> None:
        """See Store."""
