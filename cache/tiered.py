"""Several tiers as one: read from the nearest, fill the nearer ones, never let an ill tier fail a request."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Sequence

import redis

from cache.store import Store

log = logging.getLogger(__name__)

ILL = (OSError, redis.RedisError)
CHUNK = 500
"""Keys that a purge names to a tier at once."""

QUIET = 30.0
"""Seconds between two log lines about the same ill tier."""


class TieredStore:
    """Tiers from near to far. `ill` names those whose last call failed; `hits` counts what each had."""

    def __init__(self, tiers: Sequence[Store]) -> None:
        self.tiers = tuple(tiers)
        self.ill: set[str] = set()
        self.hits = {tier.name: 0 for tier in self.tiers}
        self.misses = 0
        self._said: dict[str, float] = {}

    def get_nearest(self, key: str) -> bytes | None:
        """The bytes if the nearest tier has them: asked on its own where the others would block."""
        value = self.tiers[0].get(key)
        self.hits[self.tiers[0].name] += value is not None
        return value

    def get(self, key: str) -> tuple[bytes, str] | None:
        """The bytes and the name of the tier that had them, or None."""
        for index, tier in enumerate(self.tiers):
            try:
                value = tier.get(key)
            except ILL as error:
                self._failed(tier, error)
                continue
            self.ill.discard(tier.name)
            if value is not None:
                self.hits[tier.name] += 1
                for nearer in self.tiers[:index]:
                    self._put(nearer, key, value)
                return value, tier.name
        self.misses += 1
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keep in every tier; farther tiers first, so that what memory promises is stored."""
        for tier in reversed(self.tiers):
            self._put(tier, key, value)

    def delete(self, key: str) -> None:
        """Forget in every tier."""
        for tier in self.tiers:
            try:
                tier.delete(key)
            except ILL as error:
                self._failed(tier, error)

    def purge(self, keys: Iterable[str]) -> bool:
        """Forget many keys in every tier, farthest first, so that none is filled again from a farther one.

        Returns whether every tier answered.
        """
        left, well = iter(keys), True
        while some := list(itertools.islice(left, CHUNK)):
            for tier in reversed(self.tiers):
                try:
                    tier.delete(*some)
                except ILL as error:
                    self._failed(tier, error)
                    well = False
        return well

    def check(self) -> None:
        """Look up a key that is never stored, so that `ill` is up to date."""
        for tier in self.tiers:
            try:
                tier.get("check")
            except ILL as error:
                self._failed(tier, error)
            else:
                self.ill.discard(tier.name)

    def _put(self, tier: Store, key: str, value: bytes) -> None:
        try:
            tier.put(key, value)
        except ILL as error:
            self._failed(tier, error)
        else:
            self.ill.discard(tier.name)

    def _failed(self, tier: Store, error: Exception) -> None:
        self.ill.add(tier.name)
        if time.monotonic() - self._said.get(tier.name, -QUIET) >= QUIET:
            self._said[tier.name] = time.monotonic()
            log.warning("the %s cache does not work and is passed over: %s", tier.name, error)
