"""The map blocks of a territory: of its own ground they are drawn of the sketch, and of what scenes show, generated."""

from __future__ import annotations

import asyncio
import math

import shapely

from tilecascade.app.tiles import image
from tilecascade.app.tiles.finished import EncodedBlock, FinishedBlock, keep_block
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.layer import Layer, territory_in
from tilecascade.app.tiles.orders import MapOrder
from tilecascade.app.tiles.references import References
from tilecascade.app.tiles.work import Work
from tilecascade.cache.lease import Claim
from tilecascade.model.cartography.drawn_map import corrected, objects_of_map
from tilecascade.model.cartography.parts import MARGIN, cut_to, shifted
from tilecascade.model.cartography.reviews import REACH, reviewed
from tilecascade.model.cascade import Block, Mask, Pixels, Window, assemble, cut_pixels
from tilecascade.model.conditions import Conditions
from tilecascade.model.generated import Drawing, GeneratedMap

BEYOND = 2 * math.ceil(REACH / 2) + MARGIN
"""Pixels around a block whose objects decide what the block has: even, as the cells of a class field are of two."""


class TerritoryGenerator(BlockGenerator):
    """Generates the blocks that a scene touches; the others need no network."""

    async def _attempt(self, block: Block, work: Work, claim: Claim) -> FinishedBlock | None:
        layer = self.store.layer
        if not await self.store.run(is_drawn, layer, block):
            return await super()._attempt(block, work, claim)
        encoded = await asyncio.get_running_loop().run_in_executor(self._drawing, draw_block, layer, block)
        finished = await self.store.run(keep_block, self.store, block, encoded, work.began)
        if finished is not None:
            self._count(block, encoded)
        return finished


def is_drawn(layer: Layer, block: Block) -> bool:
    """Whether all of a block is a territory's own ground. May block."""
    if layer.base is None or block.zoom not in layer.base.zooms or territory_in(layer.imagery) is None:
        return False
    return not any(layer.shows_scene(tile) for tile in block.tiles())


def draw_block(layer: Layer, block: Block) -> EncodedBlock:
    """The tiles of a block of a sketch's map, its objects, and its field for the references of finer blocks, with what
    is given and what people have said. May block."""
    footprint = block.footprint()
    window = footprint.grown(max(BEYOND, layer.ladder.windows.ring))
    beyond = (window.width - footprint.width) // 2
    ground, known = _ground(layer, window)
    found = reviewed(objects_of_map(ground, known, block.zoom), layer.given.within(window), block.zoom)
    said = reviewed(found, layer.reviews.within(window), block.zoom)
    pixels = corrected(ground, found, said, block.zoom)
    around = shapely.box(-MARGIN, -MARGIN, footprint.width + MARGIN, footprint.height + MARGIN)
    drawing = Drawing(cut_pixels(pixels, beyond), cut_to(around, shifted(said, -beyond, -beyond)))
    generated = GeneratedMap(cut_pixels(ground, beyond - layer.ladder.windows.ring), lambda: drawing)
    order = MapOrder(layer, block, References())
    conditions = Conditions(window, pixels, known, None, None)
    return order.encode(generated, conditions, order.field(generated, conditions))


def _ground(layer: Layer, window: Window) -> tuple[Pixels, Mask]:
    """The map of a window as the sketch has it, of whole tiles: the last bit of a line's pixel depends on where the
    drawing of it ends."""
    assert layer.base is not None  # a base map that is drawn is one
    found = {tile: layer.base.get(tile) for tile in window.tiles()}
    return assemble(window, {tile: image.decode(data) for tile, data in found.items() if data is not None})
