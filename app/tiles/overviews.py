"""Tiles coarser than the root zoom: drawn of the generalised objects below them, or averaged from their children."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import mercantile
import numpy as np
from mercantile import Tile

from tilecascade.app.errors import NoTileError
from tilecascade.app.tiles import image
from tilecascade.app.tiles.formats import OBJECTS, Variant
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.layer import OVERVIEW_LEVELS
from tilecascade.app.tiles.objects import decode_objects, encode_objects
from tilecascade.app.tiles.store import GENERATED, FoundTile
from tilecascade.model.cartography.finish import draw
from tilecascade.model.cartography.generalise import parent_objects
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.parts import MARGIN, shifted
from tilecascade.model.cascade import TILE_SIZE, Pixels, cut_pixels
from tilecascade.model.engine import Priority

MAX_ROOT_TILES = 4096
"""Root tiles that one tile coarser than the root zoom may be made from."""

MAX_GENERATED = 4**OVERVIEW_LEVELS
"""Root tiles that are generated for one such tile, if it is drawn of objects."""

AT_ONCE = 8
"""Root tiles that are generated for it at once, so that the queue has room for others."""

FindTile = Callable[[Tile, Variant | None, Priority], Awaitable[FoundTile]]


class Overviews:
    """Makes the tiles of one layer that are coarser than its root zoom. Its coroutines belong to one event loop."""

    def __init__(self, generator: BlockGenerator, find: FindTile) -> None:
        """find: gives a tile, made if need be."""
        self._generator = generator
        self._store = generator.store
        self._find = find

    async def make(self, tile: Tile, priority: Priority) -> FoundTile:
        """A tile that is not stored. Raises NoTileError where there is no imagery, or where too many root tiles under
        it are missing."""
        while True:
            began = self._store.clock.now
            await self._complete(tile, priority)
            if self._store.layer.finish == "none":
                pixels = image.merge_down(await self._children(tile, priority))
                made: list[MapObject] | None = None
            else:
                made, pixels = await self._drawn(tile, priority)
            layer = self._store.layer
            data = image.encode(
                pixels[..., :3], pixels[..., 3] > 127, image.provenance(layer, tile), layer.plain.format
            )
            store = self._store
            if made is not None and await store.run(store.put, tile, OBJECTS, encode_objects(made), began) is None:
                continue
            kept = await store.run(store.put, tile, layer.plain, data, began)
            if kept is not None:
                return FoundTile(kept, GENERATED)

    async def _complete(self, tile: Tile, priority: Priority) -> None:
        """See to it that all root tiles under a tile exist. Raises NoTileError."""
        layer, store = self._store.layer, self._store
        roots = layer.root_tiles(tile, MAX_ROOT_TILES)
        if roots is None:
            raise NoTileError(f"zoom {tile.z} covers too much; the map begins at zoom {layer.ladder.root}")
        covered = await store.run(lambda: [root for root in roots if layer.imagery.covers(root)])
        if not covered:
            raise NoTileError.no_imagery(tile)
        missing = [root for root in covered if await store.lookup(root) is None]
        if len(missing) > (0 if layer.finish == "none" else MAX_GENERATED):
            raise NoTileError(
                f"{tile.z}/{tile.x}/{tile.y} is made from zoom {layer.ladder.root}, where not all tiles exist yet "
                f"({len(missing)} are missing); prefetch these"
            )
        for first in range(0, len(missing), AT_ONCE):
            some = missing[first : first + AT_ONCE]
            await asyncio.gather(*(self._find(root, None, priority) for root in some))

    async def _children(self, tile: Tile, priority: Priority) -> dict[tuple[int, int], Pixels]:
        """The RGBA pixels of a tile's children, by (column, row)."""
        children = {}
        for child in mercantile.children(tile):
            try:
                found = await self._find(child, None, priority)
            except NoTileError:
                continue
            children[child.x % 2, child.y % 2] = image.decode(found.data)
        return children

    async def _drawn(self, tile: Tile, priority: Priority) -> tuple[list[MapObject], Pixels]:
        """A tile's objects, and its RGBA pixels: what is known of its children is known of it."""
        known = image.merge_down(await self._children(tile, priority))[..., 3]
        found = await self._objects(tile, priority)
        margin = self._margin(tile.z)

        def draw_it() -> Pixels:
            edge = TILE_SIZE + 2 * margin
            return cut_pixels(draw(shifted(found, margin, margin), (edge, edge), tile.z), margin)

        return found, np.dstack([await asyncio.to_thread(draw_it), known])

    async def _objects(self, tile: Tile, priority: Priority) -> list[MapObject]:
        """A tile's objects, in its pixels, made of its children's if they are not stored."""
        layer = self._store.layer
        if tile.z == layer.ladder.root:
            return decode_objects(await self._generator.objects(layer.ladder.block(tile), priority))
        stored = await self._store.lookup(tile, OBJECTS)
        if stored is not None:
            return decode_objects(stored.data)
        children = {}
        for child in mercantile.children(tile):
            roots = layer.root_tiles(child, MAX_ROOT_TILES) or []
            if await self._store.run(lambda some=roots: any(layer.imagery.covers(root) for root in some)):
                children[child.x % 2, child.y % 2] = await self._objects(child, priority)
        return await asyncio.to_thread(parent_objects, children, tile.z, self._margin(tile.z))

    def _margin(self, zoom: int) -> int:
        """Pixels around a tile that its objects are known for: of a block's, half as many at each coarser zoom."""
        return MARGIN >> (self._store.layer.ladder.root - zoom)
