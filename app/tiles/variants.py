"""Variants of a tile, made from finished tiles and kept beside them: other image formats, and twice the resolution."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import mercantile
from mercantile import Tile

from tilecascade.app.errors import NoTileError
from tilecascade.app.tiles import image
from tilecascade.app.tiles.formats import Variant
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.store import BASE_MAP, GENERATED, FoundTile, TileStore
from tilecascade.model.cascade import Pixels
from tilecascade.model.engine import Priority

FindTile = Callable[[Tile, Variant | None, Priority], Awaitable[FoundTile]]


async def make_variant(store: TileStore, find: FindTile, tile: Tile, variant: Variant, priority: Priority) -> FoundTile:
    """A tile in another variant than the layer's plain one and CONFIDENCE, made from plain tiles, which `find` gives.

    At twice the resolution a tile consists of the four tiles of the next zoom; at the max zoom it is enlarged. Raises
    NoTileError where there is nothing to show.
    """
    while True:
        began, layer = store.clock.now, store.layer
        if variant.scale == 2 and tile.z < layer.max_zoom:
            if tile.z < layer.ladder.root:
                await find(tile, None, priority)  # only if all root tiles under it exist
            pixels, from_base_map = await _four_children(find, tile, priority)
        else:
            plain = await find(tile, None, priority)
            pixels, from_base_map = image.decode(plain.data), plain.from_base_map
            if variant.scale == 2:
                pixels = await asyncio.to_thread(image.double, pixels)
        data = await asyncio.to_thread(_encode, layer, tile, variant, pixels, from_base_map)
        if from_base_map:
            return FoundTile(data, BASE_MAP)  # tiles of the base map are never stored
        kept = await store.run(store.put, tile, variant, data, began)
        if kept is not None:
            return FoundTile(kept, GENERATED)


async def _four_children(find: FindTile, tile: Tile, priority: Priority) -> tuple[Pixels, bool]:
    """A tile's children side by side, and whether all of them are the base map's."""
    tiles = mercantile.children(tile)
    answers = await asyncio.gather(*(find(child, None, priority) for child in tiles), return_exceptions=True)
    children, from_base_map = {}, True
    for child, answer in zip(tiles, answers, strict=True):
        if isinstance(answer, FoundTile):
            children[child.x % 2, child.y % 2] = image.decode(answer.data)
            from_base_map = from_base_map and answer.from_base_map
        elif not isinstance(answer, NoTileError):
            raise answer
    if not children:
        raise NoTileError.no_imagery(tile)
    return image.join(children), from_base_map and len(children) == 4


def _encode(layer: Layer, tile: Tile, variant: Variant, pixels: Pixels, from_base_map: bool) -> bytes:
    notes = {"Comment": layer.info.base_notice} if from_base_map else image.provenance(layer, tile)
    if variant.scale == 2:
        notes["tilecascade:scale"] = layer.info.scale_note(tile)
    return image.encode(pixels[..., :3], pixels[..., 3] > 127, notes, variant.format)
