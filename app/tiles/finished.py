"""A finished block in the store: its tiles, its field and its map objects."""

from __future__ import annotations

from dataclasses import dataclass

from mercantile import Tile

from tilecascade.app.tiles import image
from tilecascade.app.tiles.formats import FIELD, OBJECTS, PLAIN, Variant
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.objects import encode_objects
from tilecascade.app.tiles.store import BASE_MAP, GENERATED, FoundTile, TileStore
from tilecascade.model.cascade import Block
from tilecascade.model.conditions import Conditions
from tilecascade.model.generated import GeneratedMap


@dataclass(frozen=True)
class FinishedBlock:
    """A stored block: its tiles, its field for the references of finer blocks, if the layer has finer zooms, and its
    map objects, if the layer has a finish."""

    tiles: dict[Tile, FoundTile]
    field: bytes | None
    objects: bytes | None


def stored_block(store: TileStore, block: Block) -> FinishedBlock | None:
    """A block, if all of its tiles that have imagery are stored, and what else it has."""
    layer, first = store.layer, block.tiles()[0]
    tiles = store.stored(tile for tile in block.tiles() if layer.imagery.covers(tile))
    if tiles is None:
        return None
    more: dict[Variant, bytes] = {}
    for variant in kept_besides(layer, block):
        found = store.stored([first], variant)
        if found is None:
            return None
        more[variant] = found[first].data
    return FinishedBlock(tiles, more.get(FIELD), more.get(OBJECTS))


def kept_besides(layer: Layer, block: Block) -> list[Variant]:
    """What is kept of a block beside its tiles, under its first tile."""
    if layer.kind == "imagery":
        return []
    return [FIELD] * (block.zoom < layer.max_zoom) + [OBJECTS] * (layer.finish != "none")


def keep_block(
    store: TileStore, block: Block, generated: GeneratedMap, field: bytes | None, conditions: Conditions, began: int
) -> FinishedBlock | None:
    """Encode and store a block: its tiles with imagery that are not the base map's, and what else is kept. May block.

    None if the imagery has changed since `began`.
    """
    layer = store.layer
    known = conditions.cut(block.footprint()).imagery_known
    more: dict[Variant, bytes] = {} if field is None else {FIELD: field}
    if generated.objects is not None:
        more[OBJECTS] = encode_objects(generated.objects)
    for variant, data in more.items():
        if not store.put(block.tiles()[0], variant, data, began):
            return None
    masks, tiles = block.cut(known), {}
    for tile, colours in block.cut(generated.pixels).items():
        base = layer.base_map_tile(tile)
        if base is not None:
            tiles[tile] = FoundTile(base, BASE_MAP)
        elif masks[tile].any():
            data = image.encode(colours, masks[tile], image.provenance(layer, tile))
            if not store.put(tile, PLAIN, data, began):
                return None
            tiles[tile] = FoundTile(data, GENERATED)
    return FinishedBlock(tiles, more.get(FIELD), more.get(OBJECTS))
