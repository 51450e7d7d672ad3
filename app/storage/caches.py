"""The caches of a server, opened as its settings say: memory, disk, and a Redis of its own or one shared by servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import DataDir, Settings
from tilecascade.app.storage.revisions import Revisions
from tilecascade.app.tiles.formats import is_whole
from tilecascade.cache.disk import DiskStore
from tilecascade.cache.lease import BestEffort, Leases, RedisLeases
from tilecascade.cache.memory import MemoryStore
from tilecascade.cache.redis import EmbeddedRedis, RedisClient, RedisStore, find_server
from tilecascade.cache.store import Store
from tilecascade.cache.tiered import TieredStore

if TYPE_CHECKING:
    from tilecascade.cache.object_store import ObjectStore


def opened(url: str, revisions: Revisions) -> ObjectStore:
    """The object store that the settings name. Raises SettingsError."""
    try:
        from tilecascade.cache.object_store import ObjectStore

        return ObjectStore(url, revisions.shared_name, is_whole)
    except ImportError:
        raise SettingsError("object_store needs obstore: pip install 'tilecascade[cluster]'") from None
    except (ValueError, OSError) as error:
        raise SettingsError(f"object_store {url!r}: {error}") from None


class Caches:
    """All caches of one server. Raises SettingsError.

    store: all of them as one; disk: the one on disk. leases: who of several servers with one Redis generates a block.
    revisions: under what tiles are kept where servers share them; the layers' stores fill it in. bucket: the object
    store, if there is one.
    """

    def __init__(self, settings: Settings, data_dir: DataDir) -> None:
        self.revisions = Revisions()
        self.bucket: ObjectStore | None = None
        self.disk = DiskStore(data_dir.tiles, settings.disk_bytes, is_whole)
        tiers: list[Store] = [MemoryStore(settings.memory_bytes), self.disk]
        leases: Leases | None = None
        self._embedded: EmbeddedRedis | None = None
        self._shared: RedisClient | None = None
        url = settings.redis_url
        if url is None and (program := find_server()):
            self._embedded = EmbeddedRedis(program, settings.redis_bytes)
            url = self._embedded.url
        if url and url != "none":
            try:
                client = RedisClient(url)
            except ValueError as error:
                raise SettingsError(f"redis_url {url!r}: {error}") from None
            tiers.append(RedisStore(client, settings.redis_ttl, self.revisions.shared_name))
            if self._embedded is None:  # no other process knows the embedded one
                leases = RedisLeases(client)
                self._shared = client
        if settings.object_store is not None:
            self.bucket = opened(settings.object_store, self.revisions)
            tiers.append(self.bucket)
        self.store = TieredStore(tiers)
        self.leases = BestEffort(leases)

    def shared_redis(self) -> RedisClient:
        """The Redis that servers share. Raises SettingsError if there is none."""
        if self._shared is None:
            raise SettingsError("a group needs a redis_url that all of its servers share")
        return self._shared

    def state(self) -> tuple[dict[str, str], list[str]]:
        """Each cache's state: ok, slow or unavailable; and sentences about slow ones. Asks all, so it may block."""
        store = self.store
        store.check()
        unavailable, slow = store.unavailable, dict(store.slow)
        problems = [
            f"the {name} cache is slow: it has not answered for {seconds:.1f} s; finished tiles come from memory"
            for name, seconds in slow.items()
        ]
        states = {
            tier.name: "unavailable" if tier.name in unavailable else "slow" if tier.name in slow else "ok"
            for tier in store.tiers
        }
        return states, problems

    def close(self) -> None:
        """Stop the embedded Redis, if there is one."""
        if self._embedded is not None:
            self._embedded.close()
