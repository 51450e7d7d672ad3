"""Generating the blocks of a layer of imagery: painted from the zoom above, by the engine that generates maps, too."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from mercantile import Tile

from tilecascade.app.errors import NoTileError
from tilecascade.app.tiles.finished import EncodedBlock
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.orders import Order, PaintingOrder, seen_above
from tilecascade.app.tiles.references import References
from tilecascade.app.tiles.store import TileStore
from tilecascade.app.tiles.work import Work
from tilecascade.cache.lease import Leases
from tilecascade.model.cascade import Block, Window
from tilecascade.model.conditions import Stage
from tilecascade.model.engine import Generated, GenerationEngine, Priority


class ImageryGenerator(BlockGenerator):
    """Paints the blocks of one layer of imagery (see `app.tiles.layer.imagery_layer`).

    attempts: blocks by how often they were painted, since the start; unaccepted: those that no attempt brought into the
    gate's range.
    """

    def __init__(
        self, store: TileStore, leases: Leases, engine: GenerationEngine, rejected: Path | None = None
    ) -> None:
        """rejected: folder for what the gate rejects, if it is to be kept: examples of what imagery is not."""
        super().__init__(store, leases, engine)
        self._rejected = rejected
        self.attempts: Counter[int] = Counter()
        self.unaccepted = 0

    def stage(self, block: Block) -> Stage:
        """The stage that a block is painted in."""
        layer = self.store.layer
        reference = layer.ladder.reference_zoom(block.zoom)
        return Stage(block.zoom, reference, block.footprint().width, layer.seed, layer.revision)

    async def references(self, block: Block, work: Work) -> References:
        """The tiles that a block is painted from; none where these are the source's own."""
        return References(painted=await self.tiles_of(seen_above(self.store.layer, block), work))

    async def tiles_of(self, window: Window, work: Work) -> dict[Tile, bytes] | None:
        """See PaintedTiles."""
        layer = self.store.layer
        if window.zoom <= layer.ladder.root:
            return None
        tiles = await self.store.run(lambda: [tile for tile in window.tiles() if layer.imagery.covers(tile)])
        work.needs |= {(self.works, layer.ladder.block(tile)) for tile in tiles}
        found = await asyncio.gather(*(self._file(tile, work) for tile in tiles))
        return {tile: data for tile, data in zip(tiles, found, strict=True) if data is not None}

    async def _file(self, tile: Tile, work: Work) -> bytes | None:
        found = await self.store.lookup(tile)
        with suppress(NoTileError):
            return (found or await self.tile(tile, work.priority)).data
        return None

    def _order(self, block: Block, references: References) -> Order:
        return PaintingOrder(self.store.layer, block, references)

    def _submit(self, stage: Stage, prepare: Callable[[], Any], priority: Priority) -> Future[Any]:
        return self.works.engine.submit_imagery(stage, prepare, priority)

    async def _encode(self, order: Any, result: Generated[Any, Any], work: Work) -> EncodedBlock:
        return await self.store.run(order.encode, result.output)

    def _count(self, block: Block, encoded: EncodedBlock) -> None:
        super()._count(block, encoded)
        self.attempts[encoded.attempts] += 1
        self.unaccepted += not encoded.accepted
        for picture in encoded.rejected if self._rejected is not None else ():
            self._keep_rejected(block.tiles()[0], picture)

    def _keep_rejected(self, first: Tile, picture: bytes) -> None:
        assert self._rejected is not None
        self._rejected.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(picture).hexdigest()[:8]
        (self._rejected / f"{first.z}_{first.x}_{first.y}_{digest}.png").write_bytes(picture)
