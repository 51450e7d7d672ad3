"""A finished block: its files as they are encoded, and as they are in the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from mercantile import Tile

from tilecascade.app.tiles.formats import FIELD, OBJECTS, Variant
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.store import BASE_MAP, GENERATED, FoundTile, TileStore
from tilecascade.model.cascade import Block


@dataclass(frozen=True)
class EncodedBlock:
    """The image files of a block's tiles with imagery, and what else is kept of it, under its first tile.

    attempts, accepted, rejected: see `model.imagery.painter.PaintedBlock`; the rejected ones as PNG.
    """

    tiles: dict[Tile, bytes]
    more: dict[Variant, bytes] = field(default_factory=dict)
    attempts: int = 1
    accepted: bool = True
    rejected: tuple[bytes, ...] = ()


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


def keep_block(store: TileStore, block: Block, encoded: EncodedBlock, began: int) -> FinishedBlock | None:
    """Store a block: its tiles that are not the base map's, and what else is kept. May block.

    None if the imagery has changed since `began`.
    """
    more: dict[Variant, bytes] = {}
    for variant, data in encoded.more.items():
        kept = store.put(block.tiles()[0], variant, data, began)
        if kept is None:
            return None
        more[variant] = kept
    tiles = {}
    for tile, data in encoded.tiles.items():
        base = store.layer.base_map_tile(tile)
        if base is not None:
            tiles[tile] = FoundTile(base, BASE_MAP)
        elif (kept := store.put(tile, store.layer.plain, data, began)) is not None:
            tiles[tile] = FoundTile(kept, GENERATED)
        else:
            return None
    return FinishedBlock(tiles, more.get(FIELD), more.get(OBJECTS))
