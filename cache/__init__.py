"""Bytes by key: memory, disk, Redis, and one front for all three. Knows nothing of what a tile is."""

from tilecascade.cache.disk import DiskStore
from tilecascade.cache.memory import MemoryStore
from tilecascade.cache.redis import RedisStore
from tilecascade.cache.single_flight import SingleFlight
from tilecascade.cache.store import Store
from tilecascade.cache.tiered import TieredStore

__all__ = ["DiskStore", "MemoryStore", "RedisStore", "SingleFlight", "Store", "TieredStore"]
