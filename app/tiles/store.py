"""The finished tiles of one layer: looking them up, keeping them, and forgetting them when the imagery changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from mercantile import Tile

from tilecascade.app.errors import PurgeError
from tilecascade.app.storage.caches import Caches
from tilecascade.app.tiles.announcements import Announcements
from tilecascade.app.tiles.formats import Variant
from tilecascade.app.tiles.invalidation import AffectedTiles, InvalidationClock
from tilecascade.app.tiles.layer import Layer, tile_of_key

BASE_MAP, GENERATED = "base map", "generated"
"""Sources of a tile that did not come out of a cache."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class FoundTile:
    """A finished tile. data: its image file. source: the name of the cache that held it, GENERATED, or BASE_MAP."""

    data: bytes
    source: str

    @property
    def from_base_map(self) -> bool:
        """Whether the tile is the base map's own."""
        return self.source == BASE_MAP


class TileStore:
    """The finished tiles of one layer. Coroutines belong to one event loop; the other methods may block.

    layer: what is served now; it is replaced when the imagery changes. clock: says which tiles a change has outdated.
    finished: tells whoever listens which tiles have been kept.
    """

    def __init__(
        self, layer: Layer, caches: Caches, executor: ThreadPoolExecutor, finished: Announcements | None = None
    ) -> None:
        self.layer = layer
        self._caches = caches
        self.clock = InvalidationClock()
        self.finished = finished or Announcements()
        self._tiers = caches.store
        self._executor = executor

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Run something that may block outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *arguments))

    async def lookup(self, tile: Tile, variant: Variant | None = None) -> FoundTile | None:
        """The finished tile, in the layer's plain variant if None, or the base map's. Memory answers at once; the other
        caches are asked outside the loop.

        Every call counts as one hit or one miss, unless the base map answers. Memory is read without waiting for a
        change of the imagery: until the change is made, the tile from before is the right one. Raises BaseMapError.
        """
        variant, outdated = variant or self.layer.plain, self.clock.purging(tile)
        memory = None if outdated else self._tiers.get_nearest(self.layer.key(tile, variant))
        if memory is not None:
            return FoundTile(memory, self._tiers.tiers[0].name)
        # after memory, because tiles of the base map are never kept there
        if variant == self.layer.plain and (found := await self.from_base_map(tile)):
            return found
        hit = None if outdated else await self.run(self._read, tile, variant, True)
        if hit is None:
            self._tiers.misses += 1
        return hit

    async def from_base_map(self, tile: Tile) -> FoundTile | None:
        """The base map's own tile, if it has one. Raises BaseMapError."""
        base = self.layer.base
        if base is None or tile.z not in base.zooms:
            return None
        data = await self.run(self.layer.base_map_tile, tile)
        return None if data is None else FoundTile(data, BASE_MAP)

    def stored(self, tiles: Iterable[Tile], variant: Variant | None = None) -> dict[Tile, FoundTile] | None:
        """These tiles, if all of them are stored or the base map's. Counts neither hits nor misses."""
        found, plain = {}, variant in (None, self.layer.plain)
        for tile in tiles:
            data = self.layer.base_map_tile(tile) if plain else None
            here = self._read(tile, variant or self.layer.plain, False) if data is None else FoundTile(data, BASE_MAP)
            if here is None:
                return None
            found[tile] = here
        return found

    def _read(self, tile: Tile, variant: Variant, count: bool) -> FoundTile | None:
        with self.clock.using():
            if self.clock.purging(tile):
                return None
            hit = self._tiers.get(self.layer.key(tile, variant), count)
            return None if hit is None else FoundTile(*hit)

    def put(self, tile: Tile, variant: Variant, data: bytes, began: int) -> bytes | None:
        """Keep a tile whose making began at `began` (`clock.now`). None, and not kept, if a change has outdated it.

        Returns what is kept: of servers that share an object store, what the first of them has put there.
        """
        with self.clock.using():
            if self.clock.stale(tile, began):
                return None
            data = self._tiers.put(self.layer.key(tile, variant), data)
        if variant == self.layer.plain:
            self.finished.announce(tile)
        return data

    def make_durable(self, tile: Tile, data: bytes, began: int) -> bool:
        """See to it that a tile is on disk, though it could not be written when it was made. False if it cannot be.

        A tile that a change since `began` has outdated counts as if it were: its owner begins again anyway.
        """
        with self.clock.using():
            key = self.layer.key(tile)
            if self.clock.stale(tile, began) or self._caches.disk.stat(key) is not None:
                return True
            try:
                self._caches.disk.put(key, data)
            except OSError:
                return False
        return True

    async def change_layer(self, layer: Layer, affected: AffectedTiles) -> None:
        """Replace the layer; returns when no cache holds a tile of `affected` from before.

        Work under way on such tiles begins again. Raises PurgeError if a cache does not answer: then call `invalidate`
        again later; until that succeeds, stored tiles of `affected` are not used.
        """

        await self.run(change_layers, [self], [layer], [affected])
        await self.run(self.invalidate, affected)

    def take(self, layer: Layer, affected: AffectedTiles) -> None:
        """Serve a layer from now on, whose affected tiles are other ones; nobody may be using the caches."""
        self.layer = layer
        self._caches.revisions.change(layer, affected)

    def forget_all(self) -> None:
        """Remove every tile of this version of the layer from every cache that answers."""
        self._tiers.purge(self.layer.folder, lambda key: True)

    def invalidate(self, affected: AffectedTiles) -> None:
        """Remove the tiles of `affected`, in all variants, from every cache. Raises PurgeError."""

        def outdated(key: str) -> bool:
            tile = tile_of_key(key)
            return tile is not None and tile in affected

        if not self._tiers.purge(self.layer.folder, outdated):
            raise PurgeError(f"these caches do not answer: {', '.join(sorted(self._tiers.unavailable))}")
        self.clock.purged(affected)


def change_layers(stores: Sequence[TileStore], layers: Sequence[Layer], affected: Sequence[AffectedTiles]) -> None:
    """Replace the layers of stores at one moment. The affected tiles count as not stored until they are removed."""
    if not stores:
        return
    first, *others = stores

    def swap() -> None:
        change_layers(others, layers[1:], affected[1:])
        first.take(layers[0], affected[0])

    first.clock.change(affected[0], swap)
