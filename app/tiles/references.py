"""What a block is generated from: the imagery in its window, and the reference that coarser blocks give."""

from __future__ import annotations

from dataclasses import dataclass, field

from mercantile import Tile

from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.tiles import image
from tilecascade.app.tiles.layer import Layer
from tilecascade.model.cascade import Window, assemble, tile_window
from tilecascade.model.conditions import Conditions


@dataclass(frozen=True)
class References:
    """Image files that a block is generated from.

    fields, base: of the reference zoom, fields of blocks by their windows, and tiles of the base map, which count more
    where there are both. painted: tiles of painted imagery, of the block's own zoom; None if its imagery is not
    painted.
    """

    fields: dict[Window, bytes] = field(default_factory=dict)
    base: dict[Tile, bytes] = field(default_factory=dict)
    painted: dict[Tile, bytes] | None = None


def read_conditions(layer: Layer, window: Window, references: References) -> Conditions:
    """Imagery and enlarged reference over a window, where the reference is the base map's, and what is given or
    reviewed. May block."""
    if references.painted is None:
        imagery, known = layer.imagery.read(window)
    else:
        imagery, known = assemble(window, {tile: image.decode(data) for tile, data in references.painted.items()})
        if isinstance(layer.imagery, SceneMosaic):
            imagery, known = layer.imagery.over(window, imagery, known)
    said = layer.areas.caption_at if layer.areas.all else None
    reviews = (*layer.given.within(window), *layer.reviews.within(window))
    if layer.ladder.reference_window(window) is None:
        return Conditions(window, imagery, known, None, None, None, reviews, said)
    fields = {place: image.decode(data) for place, data in references.fields.items()}
    base = {tile_window(tile): image.decode(data) for tile, data in references.base.items()}
    reference, reference_known = layer.ladder.enlarged_reference(window, fields | base)
    from_base_map = layer.ladder.enlarged_reference(window, base)[1] if base else None
    scenes = layer.imagery if isinstance(layer.imagery, SceneMosaic) and layer.imagery.scenes else None
    if from_base_map is not None and layer.base_drawn and scenes is not None:
        # what is drawn of a sketch says nothing of the ground that a scene shows
        real = scenes.shown(window)[1]
        reference_known, from_base_map = reference_known & ~(from_base_map & real), from_base_map & ~real
    return Conditions(window, imagery, known, reference, reference_known, from_base_map, reviews, said)
