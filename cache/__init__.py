"""Bytes by key: memory, disk, Redis, and one front for all three. Knows nothing of what a tile is."""

from cache.disk import DiskStore
from cache.memory import MemoryStore
from cache.redis import RedisStore
from cache.single_flight import SingleFlight
from cache.store import Store
from cache.tiered import TieredStore

__all__ = ["DiskStore", "MemoryStore", "RedisStore", "SingleFlight", "Store", "TieredStore"]
