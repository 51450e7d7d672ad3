"""Other formats of a tile, and the tile at twice the resolution: made from finished tiles, kept beside them."""

from __future__ import annotations

import asyncio

from mercantile import Tile

from app import confidence, tile_image
from app.hits import PLAIN, REAL_NOTICE, Variant
from app.resolver import REAL, Found, NoTileError, TileResolver
from model.cascade import Pixels
from model.engine import Urgency


async def find(resolver: TileResolver, tile: Tile, variant: Variant, urgency: Urgency = Urgency.INTERACTIVE) -> Found:
    """A tile in a variant, made if need be; at twice the resolution it is the four tiles of the next zoom, at the max
    zoom itself enlarged. Raises NoTileError where there is nothing to show."""
    if variant == PLAIN:
        return await resolver.tile(tile, urgency)
    if variant.confidence:
        return await confidence.find(resolver, tile, urgency)
    found = await resolver.cached(tile, variant)
    if found is not None:
        return found
    began = resolver.epochs.now
    if variant.scale == 2 and tile.z < resolver.layer.max_zoom:
        if tile.z < resolver.layer.ladder.root:
            await resolver.tile(tile, urgency)  # only if all root tiles under it exist
        pixels, real = await _four(resolver, tile, urgency)
    else:
        plain = await resolver.tile(tile, urgency)
        pixels, real = tile_image.decode(plain.png), plain.real
        if variant.scale == 2:
            pixels = await asyncio.to_thread(tile_image.double, pixels)
    data = await asyncio.to_thread(_encode, resolver, tile, variant, pixels, real)
    if real:
        return Found(data, REAL)  # not ours to keep
    if not await resolver.keep(tile, variant, data, began):
        return await find(resolver, tile, variant, urgency)
    return Found(data, "generated")


async def _four(resolver: TileResolver, tile: Tile, urgency: Urgency) -> tuple[Pixels, bool]:
    """A tile's children side by side, and whether all of it is real."""
    places = [(column, row) for column in (0, 1) for row in (0, 1)]
    below = [Tile(2 * tile.x + column, 2 * tile.y + row, tile.z + 1) for column, row in places]
    answers = await asyncio.gather(*(resolver.tile(child, urgency) for child in below), return_exceptions=True)
    children, real = {}, True
    for place, answer in zip(places, answers, strict=True):
        if isinstance(answer, Found):
            children[place] = tile_image.decode(answer.png)
            real = real and answer.real
        elif not isinstance(answer, NoTileError):
            raise answer
    if not children:
        raise NoTileError(f"there is no imagery at {tile.z}/{tile.x}/{tile.y}")
    return tile_image.join(children), real and len(children) == 4


def _encode(resolver: TileResolver, tile: Tile, variant: Variant, pixels: Pixels, real: bool) -> bytes:
    facts = {"Comment": REAL_NOTICE} if real else tile_image.provenance(resolver.layer, tile)
    if variant.scale == 2:
        facts["tilecascade:scale"] = resolver.layer.facts.scale_note(tile)
    return tile_image.encode(pixels[..., :3], pixels[..., 3] > 127, facts, variant.format)
