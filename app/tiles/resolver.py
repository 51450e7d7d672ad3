"""One entry for every tile of a layer: `lookup` what is finished, `make` what is not, `find` does one after the
other."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import mercantile
from mercantile import Tile

from tilecascade.app.errors import NoTileError
from tilecascade.app.tiles.confidence import ConfidenceTiles
from tilecascade.app.tiles.features import FeatureSource
from tilecascade.app.tiles.formats import Variant
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.overviews import Overviews
from tilecascade.app.tiles.store import FoundTile, TileStore
from tilecascade.app.tiles.variants import make_variant
from tilecascade.model.engine import BatchTooLargeError, Priority

SUCCESSOR_SECONDS = 120.0
"""How long a tile waits for another network to be loaded when the present one cannot go on."""

PLACEHOLDER_LEVELS = 2
"""Zooms up to which an ancestor, enlarged, tells more than a preview of the imagery: farther up it is a blur."""


class TileResolver:
    """Finds or makes the tiles of one layer. Its coroutines belong to one event loop.

    previous: the tiles of the version before, of another network, which are shown until they are generated anew.
    """

    def __init__(self, store: TileStore, generator: BlockGenerator, previous: TileStore | None = None) -> None:
        self.store = store
        self.previous = previous
        self._replaced = asyncio.Event()
        self._successor: TileResolver | None = None
        self.generator = generator
        self.confidence = ConfidenceTiles(generator)
        self.features = FeatureSource(generator)
        self.overviews = Overviews(generator, self.find)

    @property
    def layer(self) -> Layer:
        """The layer as it is served now."""
        return self.store.layer

    async def find_finished(self, tile: Tile, variant: Variant) -> FoundTile | None:
        """The tile, if it is finished or the base map's: in another image format than the plain one, too, which takes a
        moment to make. Raises BaseMapError."""
        found = await self.store.lookup(tile, variant)
        plain = self.layer.plain
        if found is not None or variant == plain or (variant.kind, variant.scale) != (plain.kind, plain.scale):
            return found
        here = await self.store.run(self.store.stored, [tile])
        return None if here is None else await self.make(tile, variant)

    async def find(
        self, tile: Tile, variant: Variant | None = None, priority: Priority = Priority.INTERACTIVE
    ) -> FoundTile:
        """The tile, made if need be; in the layer's plain variant if None. Raises NoTileError where there is nothing to
        show, and BaseMapError."""
        return await self.store.lookup(tile, variant) or await self.make(tile, variant, priority)

    async def make(
        self, tile: Tile, variant: Variant | None = None, priority: Priority = Priority.INTERACTIVE
    ) -> FoundTile:
        """A tile that `lookup` has not found. Raises like `find`.

        Cancelling this call drops the work, unless others wait for it or the device has begun with it.
        """
        self.check_zoom(tile)
        variant = variant or self.layer.plain
        if variant.kind == "confidence":
            return await self.confidence.make(tile, priority)
        if variant != self.layer.plain:
            return await make_variant(self.store, self.find, tile, variant, priority)
        if tile.z < self.layer.ladder.root:
            return await self.overviews.make(tile, priority)
        return await self.generator.tile(tile, priority)

    def check_zoom(self, tile: Tile) -> None:
        """Raises NoTileError for zooms finer than the layer's max zoom."""
        if tile.z > self.layer.max_zoom:
            raise NoTileError(
                f"zoom {tile.z} is finer than this layer's max zoom {self.layer.max_zoom}; let the client over-zoom"
            )

    async def nearest_ancestor(self, tile: Tile) -> tuple[Tile, bytes] | None:
        """The finest finished ancestor of a tile, for placeholders; none that is too coarse to tell anything."""
        for levels in range(1, min(PLACEHOLDER_LEVELS, tile.z - self.layer.ladder.root) + 1):
            ancestor = mercantile.parent(tile, zoom=tile.z - levels)
            found = await self.store.lookup(ancestor)
            if found is not None:
                return ancestor, found.data
        return None

    async def previous_tile(self, tile: Tile, variant: Variant) -> tuple[Layer, bytes] | None:
        """What the version before shows of a tile, if it is stored, and that version of the layer."""
        if self.previous is None:
            return None
        layer, found = self.previous.layer, await self.previous.lookup(tile, variant)
        return None if found is None else (layer, found.data)

    def replace_by(self, successor: TileResolver) -> None:
        """From now on another resolver serves the layer, with another network."""
        self._successor = successor
        self._replaced.set()

    def give_up(self) -> None:
        """Nothing will serve the layer instead."""
        self._replaced.set()

    async def successor(self, error: Exception) -> TileResolver:
        """What serves the layer instead; waited for if a smaller batch is to come. Raises `error` if nothing does."""
        if isinstance(error, BatchTooLargeError):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._replaced.wait(), SUCCESSOR_SECONDS)
        if self._successor is None:
            raise error
        return self._successor

    async def drain(self) -> None:
        """Wait for the work under way."""
        await self.generator.drain()
        await self.confidence.drain()
