"""`/tiles/confidence/...`: how far each drawn tile can be trusted, drawn when asked for and kept beside the map."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from mercantile import Tile

from app import tile_image
from app.hits import CONFIDENCE
from app.resolver import Found, NoTileError, TileResolver
from model.cascade import Block, Mask, Pixels
from model.confidence import SAMPLES, SURVEYED, colours_of, expected_error
from model.engine import Urgency

NOTE = "expected share of wrongly classed pixels, from green (few) to red (many); blue: surveyed"


async def find(resolver: TileResolver, tile: Tile, urgency: Urgency) -> Found:
    """The confidence tile, made if need be. Raises NoTileError where no map tile is drawn or real."""
    found = await resolver.cached(tile, CONFIDENCE)
    if found is not None:
        return found
    resolver.check_zoom(tile)
    ladder = resolver.layer.ladder
    if tile.z < ladder.root:
        raise NoTileError(f"confidence begins at zoom {ladder.root}")
    block = ladder.block(tile)
    made = await resolver.doubts.run(block, partial(_draw, resolver, block, urgency))
    if tile not in made:
        raise NoTileError(f"there is no imagery at {tile.z}/{tile.x}/{tile.y}")
    return Found(made[tile], "generated")


async def _draw(resolver: TileResolver, block: Block, urgency: Urgency) -> dict[Tile, bytes]:
    """All confidence tiles of a block, stored."""
    layer = resolver.layer
    if not layer.generator.calibration:
        raise NoTileError("what this network's doubt means is not known: `tilecascade calibrate --store` finds out")
    while True:
        began, made = resolver.epochs.now, {}
        doubt, masks = await doubt_of(resolver, block, urgency)
        for tile, level in doubt.items():
            real = await resolver.real(tile)
            if real is None and not masks[tile].any():
                continue
            colours = colours_of(expected_error(level, layer.generator.calibration))
            if real is not None:
                colours[:] = SURVEYED
            facts = tile_image.provenance(layer, tile) | {"Comment": NOTE}
            made[tile] = tile_image.encode(colours, masks[tile] | (real is not None), facts)
        if all([await resolver.keep(tile, CONFIDENCE, png, began) for tile, png in made.items()]):
            return made


async def doubt_of(
    resolver: TileResolver, block: Block, urgency: Urgency = Urgency.INTERACTIVE
) -> tuple[dict[Tile, Pixels], dict[Tile, Mask]]:
    """How far drawings of a block's tiles disagree (see CascadePipeline), and where there is imagery."""
    window = resolver.layer.ladder.window(block)
    references = await resolver.references(window)
    conditions = await asyncio.to_thread(resolver.conditions, window, references)
    stage = replace(resolver.stage(block.zoom, block.footprint().width), samples=SAMPLES)
    doubt = await asyncio.wrap_future(resolver.engine.submit(stage, lambda: conditions, urgency))
    return block.cut(doubt), block.cut(conditions.cut(block.footprint()).imagery_known)
