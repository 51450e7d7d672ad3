"""Confidence tiles: how far each generated tile can be trusted, made when they are asked for and kept beside the
map."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from functools import partial

from mercantile import Tile

from tilecascade.app.errors import NoTileError
from tilecascade.app.tiles import image
from tilecascade.app.tiles.formats import CONFIDENCE
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.orders import MapOrder, prepared
from tilecascade.app.tiles.store import GENERATED, FoundTile
from tilecascade.app.tiles.territory_generator import is_drawn
from tilecascade.app.tiles.work import Work
from tilecascade.cache.single_flight import SingleFlight
from tilecascade.model.cascade import Block
from tilecascade.model.conditions import Conditions
from tilecascade.model.confidence import BASE_MAP_COLOUR, colours_of, expected_error
from tilecascade.model.engine import Declined, Generated, Priority, QueueFullError, UncertaintyFuture
from tilecascade.model.pipeline import Uncertainty

NOTE = "expected share of wrongly classed pixels, from green (few) to red (many); blue: surveyed"

MAX_WAITING = 32
"""Blocks whose confidence may be on its way: each is generated several times, and costs that of several map tiles."""


class ConfidenceTiles:
    """Makes the confidence tiles of one layer. Its coroutines belong to one event loop."""

    def __init__(self, generator: BlockGenerator) -> None:
        self._generator = generator
        self._queued: dict[Hashable, UncertaintyFuture] = {}
        self._flights: SingleFlight[dict[Tile, FoundTile]] = SingleFlight(self._begun)

    async def make(self, tile: Tile, priority: Priority) -> FoundTile:
        """The confidence tile.

        Raises NoTileError where there is no map tile, or where no calibration is known, and QueueFullError. Cancelling
        this call drops the work, unless others wait for it or the device has begun with it.
        """
        store, layer = self._generator.store, self._generator.store.layer
        if tile.z < layer.ladder.root:
            raise NoTileError(f"confidence begins at zoom {layer.ladder.root}")
        if not layer.model.calibration:
            raise NoTileError("this network has no calibration; `tilecascade calibrate --store` measures one")
        if not await store.run(layer.imagery.covers, tile) and await store.from_base_map(tile) is None:
            raise NoTileError.no_imagery(tile)
        if await store.run(is_sketch, layer, tile):
            raise NoTileError(f"{tile.z}/{tile.x}/{tile.y} is drawn from a sketch, with which it cannot be at variance")
        block = layer.ladder.block(tile)
        if block not in self._flights and len(self._flights) >= MAX_WAITING:
            raise QueueFullError(f"{MAX_WAITING} confidence tiles are waiting already; try again in a moment")
        tiles = await self._flights.run(block, partial(self._block, block, priority))
        if tile not in tiles:
            raise NoTileError.no_imagery(tile)
        return tiles[tile]

    async def _block(self, block: Block, priority: Priority) -> dict[Tile, FoundTile]:
        """All confidence tiles of a block, stored."""
        store = self._generator.store
        while True:
            began, layer, tiles = store.clock.now, store.layer, {}
            result = await self.uncertainty(block, priority)
            masks = block.cut(result.conditions.cut(block.footprint()).imagery_known)
            classes = block.cut(result.output.classes)
            for tile, disagreement in block.cut(result.output.disagreement).items():
                base = await store.from_base_map(tile)
                if (base is None and not masks[tile].any()) or await store.run(is_sketch, layer, tile):
                    continue
                colours = colours_of(expected_error(disagreement, classes[tile], layer.model.calibration))
                if base is not None:
                    colours[:] = BASE_MAP_COLOUR
                notes = image.provenance(layer, tile) | {"Comment": NOTE}
                data = image.encode(colours, masks[tile] | (base is not None), notes)
                tiles[tile] = FoundTile(data, GENERATED)
            kept = [await store.run(store.put, tile, CONFIDENCE, made.data, began) for tile, made in tiles.items()]
            if all(kept):
                return tiles

    async def uncertainty(
        self, block: Block, priority: Priority = Priority.INTERACTIVE
    ) -> Generated[Uncertainty, Conditions]:
        """How far maps of a block that are generated with different noise disagree, and from which conditions."""
        generator = self._generator
        order = MapOrder(generator.store.layer, block, await generator.references(block, Work(priority)))
        engine = generator.works.engine
        prepare = partial(prepared, order, engine)
        self._queued[block] = engine.submit_uncertainty(generator.stage(block), prepare, priority)
        try:
            result = await asyncio.wrap_future(self._queued[block])
        finally:
            del self._queued[block]
        assert not isinstance(result, Declined)  # `conditions` never declines
        return result

    def _begun(self, block: Hashable) -> bool:
        """Whether the device works on it: then it is finished and kept even if nobody waits any more."""
        return block in self._queued and self._queued[block].running()

    async def drain(self) -> None:
        """Wait for the blocks under way."""
        await self._flights.drain()


def is_sketch(layer: Layer, tile: Tile) -> bool:
    """Whether all of a tile is drawn from a sketch, and what people have said of it. May block."""
    return layer.base_drawn and (layer.base_map_tile(tile) is not None or is_drawn(layer, layer.ladder.block(tile)))
