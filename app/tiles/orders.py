"""What a block is to be made from, and what is made of what the network gives: here, or by a replica elsewhere."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from tilecascade.app.tiles import image
from tilecascade.app.tiles.finished import EncodedBlock
from tilecascade.app.tiles.formats import FIELD, OBJECTS, Variant
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.objects import encode_objects
from tilecascade.app.tiles.references import References, read_conditions
from tilecascade.model.cascade import Block, Window, assemble
from tilecascade.model.conditions import Conditions
from tilecascade.model.engine import GenerationEngine
from tilecascade.model.generated import GeneratedMap
from tilecascade.model.imagery.painter import Above, PaintedBlock, trusted

Kind = Literal["map", "uncertainty", "imagery"]
"""What the engine is asked for."""

ATTEMPTS = "tilecascade:attempts"
"""Name of the note in a tile that says how often it was painted."""


@dataclass(frozen=True)
class MapOrder:
    """A block of a map, or its uncertainty. references: what `read_conditions` needs besides the layer."""

    layer: Layer
    block: Block
    references: References

    def read(self) -> Conditions:
        """What the network needs of the block. May block."""
        return read_conditions(self.layer, self.layer.ladder.window(self.block), self.references)

    def field(self, generated: GeneratedMap, conditions: Conditions) -> bytes | None:
        """The file of the block's field, for the references of finer blocks; None where the layer has none."""
        if self.block.zoom >= self.layer.max_zoom or generated.field is None:
            return None
        known = conditions.cut(self.layer.ladder.field(self.block)).imagery_known
        return image.encode(generated.field, known, {}, fast=True)

    def encode(self, generated: GeneratedMap, conditions: Conditions, field: bytes | None) -> EncodedBlock:
        """Draw and encode the block. field: see above. May block."""
        known = conditions.cut(self.block.footprint()).imagery_known
        more: dict[Variant, bytes] = {} if field is None else {FIELD: field}
        if generated.objects is not None:
            more[OBJECTS] = encode_objects(generated.objects)
        masks = self.block.cut(known)
        return EncodedBlock(
            {
                tile: image.encode(colours, masks[tile], image.provenance(self.layer, tile))
                for tile, colours in self.block.cut(generated.pixels).items()
                if masks[tile].any()
            },
            more,
        )


@dataclass(frozen=True)
class PaintingOrder:
    """A block of imagery. references: the tiles above it, unless they are the source's own."""

    layer: Layer
    block: Block
    references: References

    def read(self) -> Above:
        """What the network needs of the block. May block."""
        layer, window = self.layer, seen_above(self.layer, self.block)
        if self.references.painted is None:
            pixels, known = layer.imagery.read(window)
        else:
            files = self.references.painted.items()
            pixels, known = assemble(window, {tile: image.decode(data) for tile, data in files})
        return Above(self.block.footprint(), pixels, known, trusted(self.block.zoom, layer.ladder.root))

    def encode(self, painted: PaintedBlock) -> EncodedBlock:
        """Encode the block."""
        masks, tiles = self.block.cut(painted.mask), {}
        for tile, colours in self.block.cut(painted.pixels).items():
            if masks[tile].any():
                notes = image.provenance(self.layer, tile) | {ATTEMPTS: str(painted.attempts)}
                tiles[tile] = image.encode(colours, masks[tile], notes, self.layer.plain.format, fast=True)
        rejected = tuple(_png(pixels) for pixels in painted.rejected)
        return EncodedBlock(tiles, {}, painted.attempts, painted.accepted, rejected)


Order = MapOrder | PaintingOrder


def seen_above(layer: Layer, block: Block) -> Window:
    """The pixels that a block of imagery is painted from."""
    window = layer.ladder.reference_source(block)
    assert window is not None  # the source has all tiles of the root zoom
    return window


def prepared(order: Order, engine: GenerationEngine) -> Any:
    """What an engine wants of a block whose turn is near: its conditions, or the order itself where another machine
    reads them. May block."""
    return order if engine.remote else order.read()


def _png(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
