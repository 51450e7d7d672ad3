"""The way of a tile: cached? -> climb the canonical chain -> plan the block -> generate -> store.

Everything below `TileResolver.tile` runs once per block however many ask (single flight), and gives the same bytes
however often it runs: the references of a block are its canonical ancestors, generated first if they are missing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mercantile import Tile

from app import tile_image
from app.hits import PLAIN, VARIANTS, Variant
from app.layer import Layer
from app.purge import Epochs, Reach
from cache.lease import Claim, Leases
from cache.single_flight import SingleFlight
from cache.tiered import TieredStore
from model.cascade import Block, Pixels, Window, assemble, enlarge
from model.engine import GenerationEngine, Urgency
from model.palette import LAND
from model.pipeline import Conditions, Stage

MAX_ROOT_TILES = 4096
"""Root tiles that a tile below the root may be drawn together from."""


WATCH = 0.05
"""Seconds between two looks at the store while another process makes a block."""


REAL = "base map"
"""Source of a tile that is not drawn."""


class PurgeError(RuntimeError):
    """Old tiles could not be removed from every tier; the message says from which."""


class NoTileError(LookupError):
    """There is no such tile and never will be for this imagery; the message says why."""


class _OvertakenError(RuntimeError):
    """The imagery has changed under a block's work."""


class _TakenError(RuntimeError):
    """Another process makes this block."""


class _MadeError(RuntimeError):
    """Another process has just made this block."""

    def __init__(self, tiles: dict[Tile, bytes]) -> None:
        super().__init__("made elsewhere")
        self.tiles = tiles


@dataclass(frozen=True)
class Found:
    """A tile's bytes and where they came from: a tier's name, "generated", or REAL."""

    png: bytes
    source: str

    @property
    def real(self) -> bool:
        """Whether the tile is the base map's."""
        return self.source == REAL


@dataclass
class _Wanted:
    """A block on its way: how urgent, which blocks it needs first, and its place in the generator's queue."""

    urgency: Urgency
    needs: set[Block] = field(default_factory=set)
    drawing: Future[Pixels] | None = None


class TileResolver:
    """Finds or makes the tiles of one layer. Use from one event loop.

    engine: draws. doubts: confidence tiles on their way (app/confidence.py).
    """

    def __init__(
        self,
        layer: Layer,
        store: TieredStore,
        leases: Leases,
        engine: GenerationEngine,
        workers: ThreadPoolExecutor,
    ) -> None:
        self.layer = layer
        self._store = store
        self._leases = leases
        self.engine = engine
        self._workers = workers
        self._flights: SingleFlight[dict[Tile, bytes]] = SingleFlight(self._begun)
        self.doubts: SingleFlight[dict[Tile, bytes]] = SingleFlight()
        self._wanted: dict[Block, _Wanted] = {}
        self.generated: Counter[int] = Counter()
        self.encode_seconds = 0.0
        self.epochs = Epochs()

    @property
    def blocks_generated(self) -> int:
        """Blocks drawn and stored; `generated` counts them by zoom."""
        return self.generated.total()

    async def tile(self, tile: Tile, urgency: Urgency = Urgency.INTERACTIVE) -> Found:
        """The tile, generated if need be. Raises NoTileError where there is nothing to show.

        Cancelling this call drops the work, unless others wait for it or drawing has begun.
        """
        found = await self.cached(tile)
        if found is not None:
            return found
        self.check_zoom(tile)
        if tile.z < self.layer.ladder.root:
            return Found(await self._below_root(tile, urgency), "generated")
        if not await self._off_loop(self.layer.imagery.covers, tile):
            raise NoTileError(f"there is no imagery at {tile.z}/{tile.x}/{tile.y}")
        block = self.layer.ladder.block(tile)
        made = await self._block(block, urgency)
        if tile not in made:
            raise NoTileError(f"there is no imagery at {tile.z}/{tile.x}/{tile.y}")
        return Found(made[tile], "generated")

    def check_zoom(self, tile: Tile) -> None:
        """Raises NoTileError above the layer's max zoom."""
        if tile.z > self.layer.max_zoom:
            raise NoTileError(
                f"zoom {tile.z} is above this layer's max zoom {self.layer.max_zoom}; let the client over-zoom"
            )

    async def cached(self, tile: Tile, variant: Variant = PLAIN) -> Found | None:
        """The stored tile, or the base map's. Memory is asked at once, the other tiers off the loop."""
        purging = self.epochs.purging(tile)
        memory = None if purging else self._store.get_nearest(self.layer.key(tile, variant))
        if memory is not None:
            return Found(memory, self._store.tiers[0].name)
        # after memory: what is real is never stored
        if variant == PLAIN and (real := await self.real(tile)):
            return real
        if purging:
            return None
        hit = await self._off_loop(self._get, tile, variant)
        return Found(*hit) if hit else None

    async def real(self, tile: Tile) -> Found | None:
        """The base map's tile, if it has one. Raises BaseMapError."""
        base = self.layer.base
        if base is None or tile.z not in base.zooms:
            return None
        png = await self._off_loop(base.get, tile)
        return None if png is None else Found(png, REAL)

    def _get(self, tile: Tile, variant: Variant = PLAIN) -> tuple[bytes, str] | None:
        with self.epochs.using():
            return None if self.epochs.purging(tile) else self._store.get(self.layer.key(tile, variant))

    async def keep(self, tile: Tile, variant: Variant, data: bytes, began: int) -> bool:
        """Store what was made of a finished tile; False, and not stored, if the imagery has changed since `began`."""
        return bool(await self._off_loop(self._put, tile, variant, data, began))

    def _put(self, tile: Tile, variant: Variant, data: bytes, began: int) -> bool:
        with self.epochs.using():
            if self.epochs.stale(tile, began):
                return False
            self._store.put(self.layer.key(tile, variant), data)
            return True

    async def nearest_ancestor(self, tile: Tile) -> tuple[Tile, bytes] | None:
        """The closest cached tile above `tile` (for placeholders)."""
        for levels in range(1, tile.z - self.layer.ladder.root + 1):
            ancestor = Tile(tile.x >> levels, tile.y >> levels, tile.z - levels)
            found = await self.cached(ancestor)
            if found is not None:
                return ancestor, found.png
        return None

    async def _block(self, block: Block, urgency: Urgency) -> dict[Tile, bytes]:
        """The tiles of a block, made once however many ask; the most urgent asker counts."""
        self._promote(block, urgency)
        # a flight that has just landed is still joined, though nothing is wanted of it any more
        wanted = self._wanted.get(block) or _Wanted(urgency)
        if block not in self._flights:
            wanted = self._wanted[block] = _Wanted(urgency)
        return await self._flights.run(block, partial(self._generate, block, wanted))

    def _promote(self, block: Block, urgency: Urgency) -> None:
        """Raise the urgency of a block on its way, and of what it waits for."""
        wanted = self._wanted.get(block)
        if wanted is None or urgency >= wanted.urgency:
            return
        wanted.urgency = urgency
        if wanted.drawing is not None:
            self.engine.promote(wanted.drawing, urgency)
        for need in wanted.needs:
            self._promote(need, urgency)

    def _begun(self, block: Hashable) -> bool:
        """Whether a block is being drawn: then it is finished and stored, whoever leaves."""
        wanted = self._wanted.get(block)  # type: ignore[call-overload]
        return wanted is not None and wanted.drawing is not None and not wanted.drawing.cancel()

    async def _generate(self, block: Block, wanted: _Wanted) -> dict[Tile, bytes]:
        """Make the tiles of a block and store them: references first, then conditions, drawing, encoding.

        Only one process does so: the others find the tiles in the store.
        """
        claim = Claim(self._leases, self.layer.block_key(block))
        window = self.layer.ladder.window(block)
        try:
            while True:
                began = self.epochs.now
                references = await self.references(window, wanted)
                try:
                    pixels, conditions = await self._draw(block, window, references, claim, wanted)
                    made_here: dict[Tile, bytes] = await self._off_loop(self._encode, block, pixels, conditions, began)
                    break
                except _OvertakenError:
                    wanted.drawing = None
                except _MadeError as made:
                    return made.tiles
                except _TakenError:
                    wanted.drawing = None
                    stored = await self._watch(block, claim)
                    if stored is not None:
                        return stored
        finally:
            if self._wanted.get(block) is wanted:
                del self._wanted[block]
            await asyncio.shield(self._off_loop(claim.give_up))
        self.generated[block.zoom] += 1
        return made_here

    async def _draw(
        self, block: Block, window: Window, references: dict[Tile, Found], claim: Claim, wanted: _Wanted
    ) -> tuple[Pixels, Conditions]:
        """Queue a window and wait for its pixels. Raises _TakenError or _MadeError: a lease is asked for when its turn
        has come, so that a long queue here keeps nobody elsewhere waiting."""
        read: list[Conditions] = []

        def prepare() -> Conditions:
            if not claim.take():
                raise _TakenError
            stored = self._stored(block)
            if stored is not None:
                raise _MadeError(stored)
            read.append(self.conditions(window, references))
            return read[0]

        stage = self.stage(block.zoom, block.footprint().width)
        wanted.drawing = self.engine.submit(stage, prepare, wanted.urgency)
        return await asyncio.wrap_future(wanted.drawing), read[0]

    async def _watch(self, block: Block, claim: Claim) -> dict[Tile, bytes] | None:
        """Wait until another process has stored a block; None if instead its lease has become ours."""
        while True:
            await asyncio.sleep(WATCH)
            stored: dict[Tile, bytes] | None = await self._off_loop(self._stored, block)
            if stored is not None or await self._off_loop(claim.take):
                return stored

    def _stored(self, block: Block) -> dict[Tile, bytes] | None:
        """The tiles of a block, if all that have imagery are stored."""
        tiles = {}
        for tile in self._covered(list(block.tiles())):
            hit = self.layer.real(tile) or self._get(tile)
            if hit is None:
                return None
            tiles[tile] = hit if isinstance(hit, bytes) else hit[0]
        return tiles

    def stage(self, zoom: int, size: int) -> Stage:
        """The stage that draws blocks of `size` pixels at `zoom`."""
        return Stage(zoom, self.layer.ladder.reference_zoom(zoom), size, self.layer.seed, self.layer.revision)

    async def references(self, window: Window, wanted: _Wanted | None = None) -> dict[Tile, Found]:
        """The canonical ancestor tiles that a window's reference field touches, made if need be."""
        field = self.layer.ladder.reference_window(window)
        if field is None:
            return {}
        tiles = await self._off_loop(self._shown, list(field.tiles()))
        if wanted is None:
            wanted = _Wanted(Urgency.INTERACTIVE)
        wanted.needs = {self.layer.ladder.block(tile) for tile in tiles}
        found = await asyncio.gather(*(self.tile(tile, wanted.urgency) for tile in tiles))
        return dict(zip(tiles, found, strict=True))

    def _covered(self, tiles: list[Tile]) -> list[Tile]:
        return [tile for tile in tiles if self.layer.imagery.covers(tile)]

    def _shown(self, tiles: list[Tile]) -> list[Tile]:
        return [tile for tile in tiles if self.layer.imagery.covers(tile) or self.layer.real(tile)]

    def conditions(self, window: Window, references: dict[Tile, Found]) -> Conditions:
        """Imagery and enlarged reference over a window, and where that is the base map's."""
        imagery, known = self.layer.imagery.read(window)
        field = self.layer.ladder.reference_window(window)
        if field is None:
            return Conditions(window, imagery, known, None, None)
        tiles = {tile: tile_image.decode(found.png) for tile, found in references.items()}
        levels = window.zoom - field.zoom
        reference, reference_known = enlarge(*assemble(field, tiles), levels, LAND)
        real = {tile: pixels for tile, pixels in tiles.items() if references[tile].real}
        surveyed = enlarge(*assemble(field, real), levels, LAND)[1] if real else None
        return Conditions(window, imagery, known, reference, reference_known, surveyed)

    def _encode(self, block: Block, pixels: Pixels, conditions: Conditions, began: int) -> dict[Tile, bytes]:
        """Encode and store a drawn block's tiles, of those with imagery that are not real.

        Raises _OvertakenError if the imagery has changed since `began`.
        """
        start = time.perf_counter()
        masks, made = block.cut(conditions.cut(block.footprint()).imagery_known), {}
        for tile, colours in block.cut(pixels).items():
            real = self.layer.real(tile)
            if real is not None:
                made[tile] = real
            elif masks[tile].any():
                made[tile] = tile_image.encode(colours, masks[tile], tile_image.provenance(self.layer, tile))
                if not self._put(tile, PLAIN, made[tile], began):
                    raise _OvertakenError
        self.encode_seconds += time.perf_counter() - start
        return made

    async def _below_root(self, tile: Tile, urgency: Urgency) -> bytes:
        """A tile below the root zoom, averaged from its children; only if all root tiles under it exist."""
        roots = self.layer.root_tiles(tile, MAX_ROOT_TILES)
        if roots is None:
            raise NoTileError(f"zoom {tile.z} covers too much; the map begins at zoom {self.layer.ladder.root}")
        began = self.epochs.now
        covered = await self._off_loop(self._covered, roots)
        if not covered:
            raise NoTileError(f"there is no imagery at {tile.z}/{tile.x}/{tile.y}")
        for root in covered:
            if await self.cached(root) is None:
                raise NoTileError(
                    f"{tile.z}/{tile.x}/{tile.y} is made from zoom {self.layer.ladder.root}, where "
                    "not all tiles exist yet"
                )
        children = {}
        for column in (0, 1):
            for row in (0, 1):
                child = Tile(2 * tile.x + column, 2 * tile.y + row, tile.z + 1)
                try:
                    children[column, row] = tile_image.decode((await self.tile(child, urgency)).png)
                except NoTileError:
                    continue
        merged = tile_image.merge_down(children)
        facts = tile_image.provenance(self.layer, tile)
        png = tile_image.encode(merged[..., :3], merged[..., 3] > 127, facts)
        return png if await self.keep(tile, PLAIN, png, began) else await self._below_root(tile, urgency)

    async def change_layer(self, layer: Layer, reach: Reach) -> None:
        """Draw from a layer's other imagery from now on; returns when no tier holds a tile of `reach` from before.

        Work under way on such tiles begins again. Raises PurgeError if a tier does not answer; `forget` them later:
        until that succeeds, what is stored of these tiles is not used.
        """

        def swap() -> None:
            self.layer = layer

        await self._off_loop(self.epochs.change, reach, swap)
        await self._off_loop(self.forget, reach)

    def forget(self, reach: Reach) -> None:
        """Remove the tiles of `reach`, in all variants, from every tier. Raises PurgeError."""
        keys = (self.layer.key(tile, variant) for tile in reach.tiles() for variant in VARIANTS)
        if not self._store.purge(keys):
            raise PurgeError(f"these caches do not answer: {', '.join(sorted(self._store.ill))}")
        self.epochs.purged(reach)

    async def drain(self) -> None:
        """Wait for the generations under way."""
        await self._flights.drain()
        await self.doubts.drain()

    async def _off_loop(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, partial(work, *arguments))
