"""Generating the blocks of one layer: references first, then conditions, pixels and image files.

A block is generated once however many requests wait for it, and gives the same bytes however often it is generated: its
references are its canonical ancestors, which are generated first if they are missing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from mercantile import Tile

from tilecascade.app.errors import NoTileError
from tilecascade.app.tiles import image
from tilecascade.app.tiles.formats import PLAIN
from tilecascade.app.tiles.store import BASE_MAP, GENERATED, FoundTile, TileStore
from tilecascade.cache.lease import Claim, Leases
from tilecascade.cache.single_flight import SingleFlight
from tilecascade.model.cascade import Block, Pixels, Window, assemble, enlarge
from tilecascade.model.engine import Declined, Generated, GenerationEngine, Priority
from tilecascade.model.palette import LAND
from tilecascade.model.pipeline import Conditions, Stage

POLL_SECONDS = 0.05
"""Time between two looks at the store while another process generates a block."""


@dataclass(frozen=True)
class Stored(Declined):
    """Another process has just stored the block."""

    tiles: dict[Tile, FoundTile]


class HeldElsewhere(Declined):
    """Another process holds the lease of the block, so it is generating it."""


@dataclass
class BlockWork:
    """The work on one block: its priority, the blocks it waits for, and its place in the engine's queue."""

    priority: Priority
    needs: set[Block] = field(default_factory=set)
    queued: Future[Generated[Pixels] | Declined] | None = None


class BlockGenerator:
    """Generates the blocks of one layer. Its coroutines belong to one event loop."""

    def __init__(self, store: TileStore, leases: Leases, engine: GenerationEngine) -> None:
        self.store = store
        self.engine = engine
        self._leases = leases
        self._flights: SingleFlight[dict[Tile, FoundTile]] = SingleFlight(self._begun_or_cancel)
        self._works: dict[Block, BlockWork] = {}
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
        tiles = await self.block(self.store.layer.ladder.block(tile), priority)
        if tile not in tiles:
            raise NoTileError.no_imagery(tile)
        return tiles[tile]

    async def block(self, block: Block, priority: Priority) -> dict[Tile, FoundTile]:
        """The tiles of a block, generated once however many ask; the highest priority of them counts."""
        self._promote(block, priority)
        # a flight that has just landed can still be joined, though its request has gone
        work = self._works.get(block) or BlockWork(priority)
        if block not in self._flights:
            work = self._works[block] = BlockWork(priority)
        return await self._flights.run(block, partial(self._generate, block, work))

    def _promote(self, block: Block, priority: Priority) -> None:
        """Raise the priority of a block on its way, and of the blocks that it waits for."""
        work = self._works.get(block)
        if work is None or priority >= work.priority:
            return
        work.priority = priority
        if work.queued is not None:
            self.engine.promote(work.queued, priority)
        for need in work.needs:
            self._promote(need, priority)

    def _begun_or_cancel(self, block: Hashable) -> bool:
        """Whether the device works on a block: then it is finished and stored even if nobody waits any more.

        A block that is only queued is taken off the queue.
        """
        work = self._works.get(block)  # type: ignore[call-overload]
        return work is not None and work.queued is not None and not work.queued.cancel()

    async def _generate(self, block: Block, work: BlockWork) -> dict[Tile, FoundTile]:
        """Generate and store a block, or wait for the process that does so."""
        claim = Claim(self._leases, self.store.layer.block_key(block))
        window = self.store.layer.ladder.window(block)
        try:
            while True:
                began = self.store.clock.now
                references = await self.references(window, work)
                prepare = partial(self._prepare, block, window, references, claim)
                work.queued = self.engine.submit(self.stage(block), prepare, work.priority)
                result = await asyncio.wrap_future(work.queued)
                if isinstance(result, Generated):
                    tiles = await self.store.run(self._encode, block, result.output, result.conditions, began)
                    if tiles is not None:
                        self.generated[block.zoom] += 1
                        return tiles
                elif isinstance(result, Stored):
                    return result.tiles
                elif (stored := await self._wait_for_holder(block, claim)) is not None:
                    return stored
                # the imagery has changed meanwhile, or the lease has passed to us: from the beginning
                work.queued = None
        finally:
            if self._works.get(block) is work:
                del self._works[block]
            await asyncio.shield(self.store.run(claim.give_up))

    def _prepare(
        self, block: Block, window: Window, references: dict[Tile, FoundTile], claim: Claim
    ) -> Conditions | Declined:
        """Called by the engine when the block's turn is near.

        The lease is taken only now, so that a long queue here keeps no other process waiting.
        """
        if not claim.acquire():
            return HeldElsewhere()
        stored = self._stored(block)
        return self.conditions(window, references) if stored is None else Stored(stored)

    def _stored(self, block: Block) -> dict[Tile, FoundTile] | None:
        """The tiles of a block, if all that have imagery are stored."""
        return self.store.stored(tile for tile in block.tiles() if self.store.layer.imagery.covers(tile))

    async def _wait_for_holder(self, block: Block, claim: Claim) -> dict[Tile, FoundTile] | None:
        """Wait until another process has stored a block. None if its lease has become ours instead."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            stored = await self.store.run(self._stored, block)
            if stored is not None or await self.store.run(claim.acquire):
                return stored

    def stage(self, block: Block) -> Stage:
        """The stage that a block is generated in."""
        layer = self.store.layer
        reference_zoom = layer.ladder.reference_zoom(block.zoom)
        return Stage(block.zoom, reference_zoom, block.footprint().width, layer.seed, layer.revision)

    async def references(self, window: Window, work: BlockWork) -> dict[Tile, FoundTile]:
        """The canonical ancestor tiles under a window's reference field, generated if need be, for this work."""
        layer = self.store.layer
        reference_window = layer.ladder.reference_window(window)
        if reference_window is None:
            return {}
        tiles = await self.store.run(self._existing, list(reference_window.tiles()))
        work.needs = {layer.ladder.block(tile) for tile in tiles}
        found = await asyncio.gather(*(self._reference(tile, work) for tile in tiles))
        return dict(zip(tiles, found, strict=True))

    async def _reference(self, tile: Tile, work: BlockWork) -> FoundTile:
        return await self.store.lookup(tile) or await self.tile(tile, work.priority)

    def _existing(self, tiles: list[Tile]) -> list[Tile]:
        """Those that have imagery or are the base map's."""
        layer = self.store.layer
        return [tile for tile in tiles if layer.imagery.covers(tile) or layer.base_map_tile(tile)]

    def conditions(self, window: Window, references: dict[Tile, FoundTile]) -> Conditions:
        """Imagery and enlarged reference over a window, and where the reference is the base map's. May block."""
        layer = self.store.layer
        imagery, known = layer.imagery.read(window)
        reference_window = layer.ladder.reference_window(window)
        if reference_window is None:
            return Conditions(window, imagery, known, None, None)
        tiles = {tile: image.decode(found.data) for tile, found in references.items()}
        levels = window.zoom - reference_window.zoom
        reference, reference_known = enlarge(*assemble(reference_window, tiles), levels, LAND)
        base = {tile: pixels for tile, pixels in tiles.items() if references[tile].from_base_map}
        from_base_map = enlarge(*assemble(reference_window, base), levels, LAND)[1] if base else None
        return Conditions(window, imagery, known, reference, reference_known, from_base_map)

    def _encode(self, block: Block, pixels: Pixels, conditions: Conditions, began: int) -> dict[Tile, FoundTile] | None:
        """Encode and store a block's tiles, of those with imagery that are not the base map's. May block.

        None if the imagery has changed since `began`.
        """
        start = time.perf_counter()
        layer = self.store.layer
        masks, tiles = block.cut(conditions.cut(block.footprint()).imagery_known), {}
        for tile, colours in block.cut(pixels).items():
            base = layer.base_map_tile(tile)
            if base is not None:
                tiles[tile] = FoundTile(base, BASE_MAP)
            elif masks[tile].any():
                data = image.encode(colours, masks[tile], image.provenance(layer, tile))
                if not self.store.put(tile, PLAIN, data, began):
                    return None
                tiles[tile] = FoundTile(data, GENERATED)
        self.encode_seconds += time.perf_counter() - start
        return tiles

    async def drain(self) -> None:
        """Wait for the blocks under way."""
        await self._flights.drain()
