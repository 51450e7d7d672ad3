"""Generating the blocks of one layer: references first, then conditions, pixels and image files.

A block is generated once however many requests wait for it, and gives the same bytes however often it is generated: its
references are its canonical ancestors, of which what is missing is generated first.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mercantile import Tile

from tilecascade.app.errors import NoTileError
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.source import Source
from tilecascade.app.tiles.finished import EncodedBlock, FinishedBlock, keep_block, stored_block
from tilecascade.app.tiles.formats import FIELD, OBJECTS
from tilecascade.app.tiles.orders import MapOrder, Order, prepared
from tilecascade.app.tiles.references import References
from tilecascade.app.tiles.store import FoundTile, TileStore
from tilecascade.app.tiles.work import PaintedTiles, Work, WorkInProgress
from tilecascade.cache.lease import Claim, Leases
from tilecascade.cache.single_flight import SingleFlight
from tilecascade.model.cascade import Block, Window
from tilecascade.model.conditions import Stage
from tilecascade.model.engine import Declined, Generated, GenerationEngine, Priority

POLL_SECONDS = 0.05
"""Time between two looks at the store while another process generates a block."""


@dataclass(frozen=True)
class Stored(Declined):
    """Another process has just stored the block."""

    block: FinishedBlock


class HeldElsewhere(Declined):
    """Another process holds the lease of the block, so it is generating it."""


class Overtaken(Declined):
    """The imagery has changed since the block's references were read."""


def hidden(imagery: Source, window: Window) -> bool:
    """Whether scenes hide all painted imagery of a window. May block."""
    return isinstance(imagery, SceneMosaic) and imagery.hides(window)


class BlockGenerator:
    """Generates the blocks of one layer. Its coroutines belong to one event loop."""

    def __init__(
        self, store: TileStore, leases: Leases, engine: GenerationEngine, imagery: PaintedTiles | None = None
    ) -> None:
        """imagery: what paints the imagery that this layer's maps are generated from, if it is painted."""
        self.store, self.imagery = store, imagery
        self._leases = leases
        self.works = WorkInProgress(engine)
        self._flights: SingleFlight[FinishedBlock] = SingleFlight(self.works.begun_or_cancel)
        # of their own, because whoever looks for a finished tile must not wait for a drawing
        self._drawing = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="draw")
        self.generated: Counter[int] = Counter()
        self.encode_seconds = 0.0

    @property
    def blocks_generated(self) -> int:
        """Blocks generated and stored here; `generated` counts them by zoom."""
        return self.generated.total()

    async def tile(self, tile: Tile, priority: Priority) -> FoundTile:
        """A tile at the root zoom or above it that the store does not have, generated with its block.

        Raises NoTileError where there is no imagery. Cancelling this call drops the work, unless others wait for it or
        the device has begun with it.
        """
        if not await self.store.run(self.store.layer.imagery.covers, tile):
            raise NoTileError.no_imagery(tile)
        tiles = (await self.block(self.store.layer.ladder.block(tile), priority)).tiles
        if tile not in tiles:
            raise NoTileError.no_imagery(tile)
        return tiles[tile]

    async def block(self, block: Block, priority: Priority) -> FinishedBlock:
        """A block, generated once however many ask; the highest priority of them counts."""
        return await self._flight(block, self.works.join(block, priority, block in self._flights))

    async def _flight(self, block: Block, work: Work) -> FinishedBlock:
        return await self._flights.run(block, partial(self._generate, block, work))

    async def _generate(self, block: Block, work: Work) -> FinishedBlock:
        """Generate and store a block, or wait for the process that does so."""
        claim = Claim(self._leases, self.store.layer.block_key(block))
        try:
            while True:
                work.began = self.store.clock.now
                if (finished := await self._attempt(block, work, claim)) is not None:
                    return finished
                # the imagery has changed meanwhile, or the lease has passed to us: from the beginning
                work.queued = work.field_file = None
                work.perceived.clear()
        finally:
            work.perceived.set()
            self.works.end(block, work)
            await asyncio.shield(self.store.run(claim.give_up))

    async def _attempt(self, block: Block, work: Work, claim: Claim) -> FinishedBlock | None:
        """A block as the layer is now; None if that has changed before the block was stored."""
        # of one moment: what is kept of a stage under its revision must not be made from another one's imagery
        stage = self.stage(block)
        order = self._order(block, await self.references(block, work))
        prepare = partial(self._prepare, order, claim, work.began)
        queued = work.queued = self._submit(stage, prepare, work.priority)
        result = await asyncio.wrap_future(queued)
        if isinstance(result, Generated):
            return await self._keep(order, result, work)
        if isinstance(result, HeldElsewhere):
            return await self._wait_for_holder(block, claim)
        return result.block if isinstance(result, Stored) else None

    def _submit(self, stage: Stage, prepare: Callable[[], Any], priority: Priority) -> Future[Any]:
        """Queue a block with the engine."""
        return self.works.engine.submit(stage, prepare, priority)

    def _order(self, block: Block, references: References) -> Order:
        """What a block is to be made from."""
        return MapOrder(self.store.layer, block, references)

    async def _keep(self, order: Order, result: Generated[Any, Any], work: Work) -> FinishedBlock | None:
        """Store what was generated; None if the imagery has changed meanwhile."""
        start = time.perf_counter()
        encoded = result.output
        if not isinstance(encoded, EncodedBlock):
            encoded = await self._encode(order, result, work)
        finished = await self.store.run(keep_block, self.store, order.block, encoded, work.began)
        self.encode_seconds += time.perf_counter() - start
        if finished is not None:
            self._count(order.block, encoded)
        return finished

    async def _encode(self, order: Any, result: Generated[Any, Any], work: Work) -> EncodedBlock:
        """Let finer blocks have the field of a block while its map is drawn."""
        work.field_file = await self.store.run(order.field, result.output, result.conditions)
        work.perceived.set()
        encode = partial(order.encode, result.output, result.conditions, work.field_file)
        return await asyncio.get_running_loop().run_in_executor(self._drawing, encode)

    def _count(self, block: Block, encoded: EncodedBlock) -> None:
        """A block has been stored."""
        self.generated[block.zoom] += 1

    def _prepare(self, order: Order, claim: Claim, began: int) -> Any:
        """Called by the engine when the block's turn is near: the lease is taken only now, so that a long queue here
        keeps no other process waiting."""
        if not claim.acquire():
            return HeldElsewhere()
        if (stored := stored_block(self.store, order.block)) is not None:
            return Stored(stored)
        if self.store.clock.now != began:
            return Overtaken()
        return prepared(order, self.works.engine)

    async def _wait_for_holder(self, block: Block, claim: Claim) -> FinishedBlock | None:
        """Wait until another process has stored a block. None if its lease has become ours instead."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            stored = await self.store.run(stored_block, self.store, block)
            if stored is not None or await self.store.run(claim.acquire):
                return stored

    def stage(self, block: Block) -> Stage:
        """The stage that a block is generated in."""
        layer, ladder = self.store.layer, self.store.layer.ladder
        size, ring = block.footprint().width, ladder.windows.ring
        reference_zoom = ladder.reference_zoom(block.zoom)
        finer = block.zoom < layer.max_zoom
        return Stage(block.zoom, reference_zoom, size, layer.seed, layer.revision, ring, layer.finish, finer)

    async def references(self, block: Block, work: Work) -> References:
        """The canonical references of a block, generated if need be, for this work, and its imagery if that is
        painted."""
        seen = self.store.layer.ladder.window(block)
        if self.imagery is None or await self.store.run(hidden, self.store.layer.imagery, seen):
            return await self._from_above(block, seen, work)
        above, painted = self._from_above(block, seen, work), self.imagery.tiles_of(seen, work)
        references, tiles = await asyncio.gather(above, painted)
        return replace(references, painted=tiles)

    async def _from_above(self, block: Block, seen: Window, work: Work) -> References:
        layer = self.store.layer
        window = layer.ladder.reference_window(seen)
        tiles = [] if window is None else list(window.tiles())
        above = [] if layer.base is None else [self.store.run(layer.uncorrected_tile, tile) for tile in tiles]
        base = {tile: data for tile, data in zip(tiles, await asyncio.gather(*above), strict=False) if data is not None}
        blocks = await self.store.run(self._to_generate, layer.ladder.reference_blocks(block), set(base))
        work.needs |= {(self.works, needed) for needed in blocks}
        fields = await asyncio.gather(*(self.field(other, work.priority, seen) for other in blocks))
        return References({layer.ladder.field(b): data for b, data in zip(blocks, fields, strict=True)}, base)

    def _to_generate(self, blocks: list[Block], base: set[Tile]) -> list[Block]:
        """The blocks that have a tile with imagery which the base map does not have. May block."""
        covers = self.store.layer.imagery.covers
        return [block for block in blocks if any(tile not in base and covers(tile) for tile in block.tiles())]

    async def field(self, block: Block, priority: Priority, seen: Window | None = None) -> bytes:
        """The image file of a block's field, generated if need be.

        seen: a window whose imagery is wanted afterwards; it is read, and so kept in memory, in the meantime.
        """
        found = await self.store.lookup(block.tiles()[0], FIELD)
        if found is not None:
            return found.data
        if seen is not None and self.imagery is None:
            asyncio.ensure_future(self.store.run(self.store.layer.imagery.read, seen)).add_done_callback(_seen)
        work = self.works.join(block, priority, block in self._flights)
        whole = asyncio.ensure_future(self._flight(block, work))
        perceived = asyncio.ensure_future(work.perceived.wait())
        whole.add_done_callback(_seen)
        try:
            await asyncio.wait({whole, perceived}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            whole.cancel()
            raise
        finally:
            perceived.cancel()
        early = work.field_file
        if early is not None and not self.store.clock.stale(block.tiles()[0], work.began):
            return early
        field = (await whole).field
        # a block that was begun while its zoom was the last one has no field: it is generated once more
        return field if field is not None else await self.field(block, priority)

    async def objects(self, block: Block, priority: Priority) -> bytes:
        """The file of a block's map objects (see `app.tiles.objects`), generated if need be.

        Raises NoTileError if the layer has no finish, so no objects.
        """
        if self.store.layer.finish == "none":
            raise NoTileError(f"layer {self.store.layer.name} has no map objects, because its finish is none")
        found = await self.store.lookup(block.tiles()[0], OBJECTS)
        if found is not None:
            return found.data
        objects = (await self.block(block, priority)).objects
        return objects if objects is not None else await self.objects(block, priority)

    async def drain(self) -> None:
        """Wait for the blocks under way."""
        await self._flights.drain()
        self._drawing.shutdown()


def _seen(future: asyncio.Future[Any]) -> None:
    """An error of work that nobody waits for any more is not one of the event loop's."""
    if not future.cancelled():
        future.exception()
