"""Map objects of a tile as a Mapbox Vector Tile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mapbox_vector_tile
from mercantile import Tile

from tilecascade.app.tiles.geojson import LAYERS, box_of_children
from tilecascade.model.cartography.objects import MapObject

BUFFER = 8
"""Pixels of 512 that a vector tile goes on beyond its edge."""

EXTENT = 4096
"""Units of a vector tile's edge."""


def vector_tile(tile: Tile, found: Iterable[MapObject]) -> bytes:
    """What a tile has, in global pixels of the next finer zoom -> a Mapbox Vector Tile with the layers of LAYERS."""
    box = box_of_children(tile)
    around = box.buffer(BUFFER, join_style="mitre")
    layers: dict[str, list[dict[str, Any]]] = {name: [] for name in LAYERS.values()}
    for each in sorted(found, key=lambda each: -each.geometry.area):
        if each.kind == "land" or not (geometry := each.geometry.intersection(around)):
            continue
        properties = {"class": each.kind, "confidence": round(each.confidence, 2), "generated": True}
        layers[LAYERS[each.theme]].append({"geometry": geometry, "properties": properties})
    options = {"quantize_bounds": box.bounds, "extents": EXTENT, "y_coord_down": True}
    encoded: bytes = mapbox_vector_tile.encode(
        [{"name": name, "features": some} for name, some in layers.items() if some], default_options=options
    )
    return encoded
