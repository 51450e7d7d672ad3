"""The nearest tier: a byte-bounded LRU in the process."""

from __future__ import annotations

import threading

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

    def delete(self, *keys: str) -> None:
        """See Store."""
        with self._lock:
            for key in keys:
                self._cache.pop(key, None)

    def keys(self, folder: str) -> list[str]:
        """See Store."""
        with self._lock:
            return [key for key in self._cache if key.startswith(folder + "/")]
