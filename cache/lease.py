"""Leases by name, in Redis, decide which of several servers does a piece of work.

A lease only saves work, because what is made twice has the same bytes. Whatever goes wrong with one, the work goes on.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from typing import Protocol

import redis

from tilecascade.cache.redis import RedisClient

log = logging.getLogger(__name__)

Release = Callable[[], None]

TTL = 10.0
"""Seconds after which the lease of a process that died in Redis ends; of one that lives it is renewed three times."""


class Leases(Protocol):
    """Leases by key."""

    def acquire(self, key: str) -> Release | None:
        """Try once. Returns what ends the lease, or None if another holds it. Raises redis errors."""
        ...


_RENEW = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('pexpire',KEYS[1],ARGV[2]) else return 0 end"
_RELEASE = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"


class RedisLeases:
    """`SET key token NX PX`, renewed while held, ended only by its holder (compare and delete)."""

    def __init__(self, client: RedisClient, prefix: str = "lease:", ttl: float = TTL) -> None:
        self._client = client
        self._prefix = prefix
        self._ttl = ttl
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None

    def acquire(self, key: str) -> Release | None:
        """See Leases."""
        name, token = self._prefix + key, uuid.uuid4().hex
        if self._client.call("SET", name, token, "NX", "PX", self._milliseconds) is None:
            return None
        with self._lock:
            self._held[name] = token
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="leases", daemon=True)
                self._renewer.start()
        return lambda: self._release(name, token)

    @property
    def _milliseconds(self) -> int:
        return round(self._ttl * 1000)

    def _release(self, name: str, token: str) -> None:
        with self._lock:
            self._held.pop(name, None)
        try:
            self._client.call("EVAL", _RELEASE, 1, name, token)
        except redis.RedisError as error:
            log.warning("a lease could not be ended and will expire: %s", error)

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl / 3):
            with self._lock:
                held = list(self._held.items())
            try:
                for name, token in held:
                    self._client.call("EVAL", _RENEW, 1, name, token, self._milliseconds)
            except redis.RedisError as error:
                log.warning("leases could not be renewed: %s", error)

    def close(self) -> None:
        """Stop renewing, as when the process dies: what is held expires."""
        self._stop.set()


class BestEffort:
    """Leases that are had by everybody where there are none, or where they do not work."""

    def __init__(self, leases: Leases | None) -> None:
        self._leases = leases

    def acquire(self, key: str) -> Release | None:
        """See Leases; never raises."""
        if self._leases is None:
            return _nothing
        try:
            return self._leases.acquire(key)
        except redis.RedisError as error:
            log.debug("no lease for %s: %s", key, error)
            return _nothing


def _nothing() -> None:
    """End a lease that is none."""


class Claim:
    """One holder's try for a lease: acquired in one thread, given up in another, in whichever order they come."""

    def __init__(self, leases: Leases, key: str) -> None:
        self._leases = leases
        self._key = key
        self._lock = threading.Lock()
        self._release: Release | None = None
        self._over = False

    def acquire(self) -> bool:
        """Whether the lease is held, from now on or already."""
        with self._lock:
            if self._release is None and not self._over:
                self._release = self._leases.acquire(self._key)
            return self._release is not None

    def give_up(self) -> None:
        """End the lease if it is held, and acquire none any more."""
        with self._lock:
            self._over = True
            release, self._release = self._release, None
        if release is not None:
            release()
