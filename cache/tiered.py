"""Several stores as one: read from the nearest, fill the nearer ones, and never let one that fails fail a request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import redis

from tilecascade.cache.store import Store

log = logging.getLogger(__name__)

TIER_ERRORS = (OSError, redis.RedisError)
"""What a tier raises when it does not work."""

QUIET = 30.0
"""Seconds between two log lines about the same tier."""

SLOW = 0.5
"""Seconds within which a tier should say whether it works."""


class _Check:
    """Asking one tier whether it works, in a thread of its own. error: how it ended, once it is `over`."""

    def __init__(self, tier: Store) -> None:
        self.over = threading.Event()
        self.began = time.monotonic()
        self.error: Exception | None = None
        threading.Thread(target=self._ask, args=(tier,), name="check", daemon=True).start()

    def _ask(self, tier: Store) -> None:
        try:
            tier.check()
        except TIER_ERRORS as error:
            self.error = error
        finally:
            self.over.set()


class TieredStore:
    """Tiers from near to far.

    unavailable: names of the tiers that did not work when something was last kept in them, or when they were checked.
    slow: how many seconds a tier has not answered, by name, if more than SLOW when it was checked.
    hits: lookups answered, by tier; misses: lookups that its user has counted as answered by none.
    """

    def __init__(self, tiers: Sequence[Store]) -> None:
        self.tiers = tuple(tiers)
        self.unavailable: set[str] = set()
        self.slow: dict[str, float] = {}
        self._checks: dict[str, _Check] = {}
        self.hits = {tier.name: 0 for tier in self.tiers}
        self.misses = 0
        self._said: dict[str, float] = {}

    def get_nearest(self, key: str) -> bytes | None:
        """The bytes if the nearest tier has them. It is in memory, so this never blocks."""
        value = self.tiers[0].get(key)
        self.hits[self.tiers[0].name] += value is not None
        return value

    def get(self, key: str, count: bool = True) -> tuple[bytes, str] | None:
        """The bytes and the name of the tier that had them, or None. count: whether this counts as a hit."""
        for index, tier in enumerate(self.tiers):
            try:
                value = tier.get(key)
            except TIER_ERRORS as error:
                self._failed(tier, error)
                continue
            if value is not None:
                self.hits[tier.name] += count
                for nearer in self.tiers[:index]:
                    self._put(nearer, key, value)
                return value, tier.name
        return None

    def put(self, key: str, value: bytes) -> bytes:
        """Keep in every tier, the farthest first, so that whatever memory answers is stored.

        Returns what is kept: where servers share a tier, what the first of them has put there.
        """
        for tier in reversed(self.tiers):
            value = self._put(tier, key, value) or value
        return value

    def purge(self, folder: str, outdated: Callable[[str], bool]) -> bool:
        """Forget the stored keys below a folder that are outdated, in every tier, farthest first, so that none is
        filled again from a farther one.

        Returns whether every tier answered.
        """
        complete = True
        for tier in reversed(self.tiers):
            try:
                tier.purge(folder, outdated)
            except TIER_ERRORS as error:
                self._failed(tier, error)
                complete = False
        return complete

    def check(self) -> None:
        """Ask every tier, so that `unavailable` and `slow` are up to date.

        Waits SLOW seconds for a tier, even if its disk has stopped answering; then it is asked by one thread only.
        """
        for tier in self.tiers:
            check = self._checks.get(tier.name)
            if check is None or check.over.is_set():
                check = self._checks[tier.name] = _Check(tier)
            if not check.over.wait(SLOW):
                self.slow[tier.name] = time.monotonic() - check.began
                continue
            self.slow.pop(tier.name, None)
            if check.error is None:
                self.unavailable.discard(tier.name)
            else:
                self._failed(tier, check.error)

    def _put(self, tier: Store, key: str, value: bytes) -> bytes | None:
        try:
            kept = tier.put(key, value)
        except TIER_ERRORS as error:
            self._failed(tier, error)
            return None
        self.unavailable.discard(tier.name)
        return kept

    def _failed(self, tier: Store, error: Exception) -> None:
        self.unavailable.add(tier.name)
        if time.monotonic() - self._said.get(tier.name, -QUIET) >= QUIET:
            self._said[tier.name] = time.monotonic()
            log.warning("the %s cache does not work and is skipped: %s", tier.name, error)
